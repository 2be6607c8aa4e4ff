"""PixelCNN: masked convolutions and a softmax over 256 values (van den Oord et al. 2016a)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_networks import SystemBlock
from agave.models.causal_conv import FIRST_KERNEL, CausalConv2d
from agave.models.causal_conv import causal_mask as causal_mask
from agave.models.layers import Checkpointed
from agave.models.softmax import SoftmaxHead, SoftmaxModel, window
from agave.sampling.sub_pixels import PixelNetwork


class MaskedBlock(Checkpointed):
    """A residual block of 2h -> h -> h -> 2h feature maps.

    Args:
        channels: number of feature maps h.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = CausalConv2d(2 * channels, channels, (1, 1), "B")
        self.conv = CausalConv2d(channels, channels, (3, 3), "B")
        self.wide = CausalConv2d(channels, 2 * channels, (1, 1), "B")

    def forward(self, t: Tensor) -> Tensor:
        """Return the next state, (B, 2h, H, W)."""
        return t + self.again(self._branch, t)

    def _branch(self, t: Tensor) -> Tensor:
        return self.wide(F.relu(self.conv(F.relu(self.narrow(F.relu(t))))))  # type: ignore[no-any-return]


class MaskedPixelCNN(SoftmaxModel):
    """PixelCNN. It does not see a wedge of pixels to the upper right: the blind spot of masked 3x3 convolutions.

    Args:
        image_size: height and width of x, pixels.
        channels: number of feature maps h of a block; 2h between the blocks.
        blocks: number of residual blocks.
        head: number of feature maps of the two layers before the logits.

    Source: van den Oord et al. (2016), Pixel Recurrent Neural Networks, section 3.5 and Table 1.
    """

    system = "masked_pixelcnn"

    def __init__(self, image_size: int, channels: int, blocks: int, head: int) -> None:
        super().__init__(image_size)
        self.first = CausalConv2d(3, 2 * channels, (FIRST_KERNEL, FIRST_KERNEL), "A")
        self.blocks = nn.ModuleList(MaskedBlock(channels) for _ in range(blocks))
        self.head = SoftmaxHead(2 * channels, head, head)

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> MaskedPixelCNN:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, config_networks.MaskedPixelCNNModel)
        return cls(image_size, sizes.channels, sizes.blocks, sizes.head)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head reads: x (B, 3, H, W) in [-1, 1] -> (B, 2h, H, W)."""
        t = self.first(x)
        for block in self.blocks:
            t = block(t)
        return t  # type: ignore[no-any-return]

    def pixel_network(self, x: Tensor) -> PixelNetwork:
        """Return the network for drawing x, (B, 3, H, W) in [-1, 1], pixel by pixel."""
        return _Windows(self, x)

    @property
    def reach(self) -> int:
        """Return how many rows above, and columns to either side, a pixel can depend on."""
        return FIRST_KERNEL // 2 + len(self.blocks)


class _Windows:
    """The network for drawing: a pass computes only the window that the pixel can depend on, and the head only at the pixel."""

    def __init__(self, model: MaskedPixelCNN, x: Tensor) -> None:
        self.model, self.x, self.row = model, x, 0

    def start_row(self, row: int) -> None:
        self.row = row

    def logits(self, column: int) -> Tensor:
        seen, at = window(self.x, self.row, column, self.model.reach)
        pixel = self.model.features(seen)[:, :, -1:, at : at + 1]
        return self.model.head(pixel)[:, :, 0, 0]  # type: ignore[no-any-return]
