"""Gated PixelCNN: two stacks of gated convolutions, which together see all pixels above and to the left (van den Oord et al. 2016b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_networks import SystemBlock
from agave.models.causal_conv import FIRST_KERNEL, CausalConv2d
from agave.models.layers import Checkpointed, down_conv, down_shift, nin
from agave.models.softmax import SoftmaxHead, SoftmaxModel
from agave.sampling.sub_pixels import PixelNetwork


class GatedLayer(Checkpointed):
    """A layer of both stacks.

        a = vertical(v);  v' = gated(a)
        h' = h + out(gated(horizontal(h) + link(a)))

    The first layer reads the image: its `a` is shifted down by a row, so that from then on the vertical stack holds at row i what the
    rows above i say. Its h' has no residual.

    Args:
        channels: number of feature maps p of v and h.
        kernel: width n of the kernels, odd; the vertical one has n // 2 + 1 rows, or n // 2 in the first layer.
        first: whether this is the first layer.

    Source: van den Oord et al. (2016), Conditional Image Generation with PixelCNN Decoders, section 2 and Figure 2.
    """

    def __init__(self, channels: int, kernel: int, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        inputs, left = 3 if first else channels, kernel // 2
        self.vertical = down_conv(inputs, 2 * channels, (left if first else left + 1, kernel))
        self.link = nin(2 * channels, 2 * channels, bias=False)
        self.horizontal = CausalConv2d(inputs, 2 * channels, (1, left + 1), "A" if first else "B", gate=1, centre=(0, left))
        self.out = CausalConv2d(channels, channels, (1, 1), "B")

    def down(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next state of the vertical stack, (B, p, H, W), and what the horizontal stack is told, (B, 2p, H, W)."""
        a = down_shift(self.vertical(v)) if self.first else self.vertical(v)
        return gated(a), self.link(a)

    def right(self, h: Tensor, link: Tensor) -> Tensor:
        """Return the next state of the horizontal stack, (B, p, H, W)."""
        out: Tensor = self.out(gated(self.horizontal(h) + link))
        return out if self.first else h + out


def gated(a: Tensor) -> Tensor:
    """Return tanh(p) * sigmoid(q) with (p, q) the two halves of a: (B, 2F, H, W) -> (B, F, H, W)."""
    value, gate = a.chunk(2, dim=1)
    return torch.tanh(value) * torch.sigmoid(gate)


class GatedPixelCNN(SoftmaxModel):
    """Gated PixelCNN without conditioning.

    Args:
        image_size: height and width of x, pixels.
        channels: number of feature maps p of either stack.
        layers: number of layers.
        kernel: width of the kernels after the first layer, odd.
        head: number of feature maps of the layer before the logits.

    Source: van den Oord et al. (2016), Conditional Image Generation with PixelCNN Decoders.
    """

    system = "gated_pixelcnn"

    def __init__(self, image_size: int, channels: int, layers: int, kernel: int, head: int) -> None:
        super().__init__(image_size)
        further = [GatedLayer(channels, kernel) for _ in range(layers - 1)]
        # PAPER: The paper gives no size for the first kernel. 7 is that of PixelCNN.
        self.layers = nn.ModuleList([GatedLayer(channels, FIRST_KERNEL, first=True), *further])
        self.head = SoftmaxHead(channels, head)
        self.reach = FIRST_KERNEL // 2 + (layers - 1) * (kernel // 2)  # rows above, and columns to the left, that a pixel sees

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> GatedPixelCNN:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, config_networks.GatedPixelCNNModel)
        return cls(image_size, sizes.channels, sizes.layers, sizes.kernel, sizes.head)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head reads: x (B, 3, H, W) in [-1, 1] -> (B, p, H, W)."""
        return self.horizontal_stack(x, self.vertical_stack(x))

    def vertical_stack(self, x: Tensor) -> list[Tensor]:
        """Return what each layer of the horizontal stack is told of the rows above, (B, 2p, H, W) each."""
        v, links = x, []
        for layer in self.layers:
            v, link = layer.again(layer.down, v)  # type: ignore[operator]
            links.append(link)
        return links

    def horizontal_stack(self, x: Tensor, links: list[Tensor]) -> Tensor:
        """Return the last state of the horizontal stack, (B, p, H, W); each row depends on its own x alone, and on the links."""
        h = x
        for layer, link in zip(self.layers, links, strict=True):
            h = layer.again(layer.right, h, link)  # type: ignore[operator]
        return h

    def pixel_network(self, x: Tensor) -> PixelNetwork:
        """Return the network for drawing x, (B, 3, H, W) in [-1, 1], pixel by pixel."""
        return _Rows(self, x)


class _Rows:
    """The network for drawing: the vertical stack runs once a row, a pass needs only the horizontal one."""

    def __init__(self, model: GatedPixelCNN, x: Tensor) -> None:
        self.model, self.x, self.row = model, x, x
        self.links: list[Tensor] = []

    def start_row(self, row: int) -> None:
        above = self.x[:, :, max(0, row - self.model.reach) : row + 1]
        self.links = [link[:, :, -1:] for link in self.model.vertical_stack(above)]
        self.row = self.x[:, :, row : row + 1]

    def logits(self, column: int) -> Tensor:
        left = slice(max(0, column - self.model.reach), column + 1)
        h = self.model.horizontal_stack(self.row[..., left], [link[..., left] for link in self.links])
        return self.model.head(h[..., -1:])[:, :, 0, 0]  # type: ignore[no-any-return]
