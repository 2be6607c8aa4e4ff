"""Convolutions with masks that hide what comes later than a sub-pixel: rows below, pixels to the right, and later colours."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from agave.models.layers import WeightNormConv2d

FIRST_KERNEL = 7
"""Height and width of the kernel of the layer that reads the image."""


def causal_mask(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    kind: Literal["A", "B"],
    gate: int = 0,
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
        gate: number of gates beside every value: 0 or False for none, 1 or True where half of the outputs are values and half gates, 3 for
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
        kind: see `causal_mask`; "A" needs taps above or to the left of the centre.
        gate: see `causal_mask`.
        centre: see `causal_mask`.
        init_scale: standard deviation of the output after data-dependent initialisation.

    Raises:
        ValueError: mask A would hide everything from the first colour.
    """

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        kind: Literal["A", "B"],
        *,
        gate: int = 0,
        centre: tuple[int, int] | None = None,
        init_scale: float = 1.0,
    ) -> None:
        row, column = centre or (kernel[0] // 2, kernel[1] // 2)
        if kind == "A" and row == column == 0:
            raise ValueError(f"mask A for a kernel {kernel} hides everything from R; accepted: taps above or to the left of its centre")
        padding = (column, kernel[1] - 1 - column, row, kernel[0] - 1 - row)
        super().__init__(in_channels, out_channels, kernel, padding=padding, init_scale=init_scale)
        self.register_buffer("mask", causal_mask(in_channels, out_channels, kernel, kind, gate, centre), persistent=False)

    def masked_direction(self) -> Tensor:
        """Return V with the hidden weights set to zero."""
        return self.direction * self.mask
