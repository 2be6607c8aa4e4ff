"""PixelCNN: masked convolutions and a softmax over 256 values (van den Oord et al. 2016a), and the masks, which other systems share."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_networks import SystemBlock
from agave.models.layers import Checkpointed, WeightNormConv2d, at_least_float32, full_precision
from agave.models.softmax import SoftmaxModel, window
from agave.sampling.sub_pixels import PixelNetwork

FIRST_KERNEL = 7
"""Height and width of the kernel of the first layer, the only one with mask A."""


def causal_mask(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    kind: Literal["A", "B"],
    gate: int = False,
    centre: tuple[int, int] | None = None,
) -> Tensor:
    """Return which weights of a convolution a sub-pixel may use: those of rows above, pixels to the left, and its own earlier colours.

    The channels of either side fall into three groups, of R, G and B. At the centre tap group o sees the groups g < o (mask A) or
    g <= o (mask B).

    Args:
        in_channels: number of channels of the input, at least 3.
        out_channels: number of channels of the output.
        kernel: (height, width).
        kind: "A" for the layer that reads the image, where a colour must not see itself; "B" for all others.
        gate: number of gates beside every value: 0 (False) for none, 1 (True) where half of the outputs are values and half gates, 3 for
            an LSTM. Values and gates have three groups each, otherwise a value of R would have a gate of G.
        centre: (row, column) of the tap on the pixel itself; None: the middle.

    Returns:
        bool (out, in, height, width), True where the weight counts.

    Source: van den Oord et al. (2016), Pixel Recurrent Neural Networks, section 3.4.
    """
    row, column = centre or (kernel[0] // 2, kernel[1] // 2)
    outputs = out_channels // (1 + gate)
    # PAPER: 128 and 1024 channels are not divisible by three colours. Channel i of n belongs to colour floor(3 i / n).
    of_input, of_output = (torch.arange(n) * 3 // n for n in (in_channels, outputs))
    mask = torch.zeros(outputs, in_channels, *kernel, dtype=torch.bool)
    mask[:, :, :row] = True
    mask[:, :, row, :column] = True
    mask[:, :, row, column] = of_input < of_output[:, None] if kind == "A" else of_input <= of_output[:, None]
    return mask.repeat(1 + gate, 1, 1, 1)


class CausalConv2d(WeightNormConv2d):
    """A convolution with a mask, which sees nothing that comes later than the sub-pixel; the norm is that of the masked V.

    Args:
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        kernel: (height, width).
        kind: see `causal_mask`; "A" needs a kernel with taps beside the centre, else the first colour would see nothing.
        gate: see `causal_mask`.
        centre: see `causal_mask`.
        init_scale: standard deviation of the output after data-dependent initialisation.
    """

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        kind: Literal["A", "B"],
        *,
        gate: int = False,
        centre: tuple[int, int] | None = None,
        init_scale: float = 1.0,
    ) -> None:
        row, column = centre or (kernel[0] // 2, kernel[1] // 2)
        padding = (column, kernel[1] - 1 - column, row, kernel[0] - 1 - row)
        super().__init__(in_channels, out_channels, kernel, padding=padding, init_scale=init_scale)
        self.register_buffer("mask", causal_mask(in_channels, out_channels, kernel, kind, gate, centre), persistent=False)

    def masked_direction(self) -> Tensor:
        """Return V with the hidden weights set to zero."""
        return self.direction * self.mask


class SoftmaxHead(nn.Module):
    """The last layers: a rectifier and a 1x1 convolution with mask B for each width, and again for the 768 logits.

    Args:
        channels: number of channels of the input.
        *widths: numbers of channels in between.
    """

    def __init__(self, channels: int, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CausalConv2d(a, b, (1, 1), "B") for a, b in pairwise((channels, *widths)))
        self.logits = CausalConv2d(widths[-1], 3 * 256, (1, 1), "B", init_scale=0.1)  # starts near equal probabilities, 8 bits/dim

    def forward(self, t: Tensor) -> Tensor:
        """Return the logits of every value of every colour: (B, channels, H, W) -> (B, 768, H, W), colour-major."""
        for layer in self.layers:
            t = layer(F.relu(t))
        with full_precision(t):
            return self.logits(F.relu(at_least_float32(t)))  # type: ignore[no-any-return]


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


class MaskedPixelCNNSystem(SoftmaxModel):
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
    ) -> MaskedPixelCNNSystem:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, config_networks.MaskedPixelCNN)
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

    def __init__(self, model: MaskedPixelCNNSystem, x: Tensor) -> None:
        self.model, self.x, self.row = model, x, 0

    def start_row(self, row: int) -> None:
        self.row = row

    def logits(self, column: int) -> Tensor:
        seen, at = window(self.x, self.row, column, self.model.reach)
        pixel = self.model.features(seen)[:, :, -1:, at : at + 1]
        return self.model.head(pixel)[:, :, 0, 0]  # type: ignore[no-any-return]
