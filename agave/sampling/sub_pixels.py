"""Draw images colour by colour, pixel by pixel in raster order, from a network that predicts each sub-pixel given those before it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from agave.likelihoods import sample_softmax
from agave.models.interface import scale_to_unit
from agave.runtime.progress import Progress


@runtime_checkable
class PixelNetwork(Protocol):
    """A network that reads images x, (B, 3, H, W) in [-1, 1], while they are drawn, and computes no more than the next pixel needs."""

    def start_row(self, row: int) -> None:
        """Prepare for the pixels of a row. It is called for every row in order, when the rows above are complete."""

    def logits(self, column: int) -> Tensor:
        """Return the logits of a pixel of the row, (B, 3 L) colour-major, given what is in x. Columns come in order, each several times."""


@torch.inference_mode()
def draw_sub_pixels(
    network: PixelNetwork, x: Tensor, uniforms: Tensor, *, known_rows: int = 0, temperature: float = 1.0, label: str | None = None
) -> None:
    """Draw the rows of x that are not known, in place.

    A pixel takes three passes, one a colour: G is drawn given R, and B given both.

    Args:
        network: the network, which reads x.
        x: (B, 3, H, W) in [-1, 1].
        uniforms: (B, 3, H, W), in (0, 1), one a sub-pixel.
        known_rows: number of first rows that x already holds.
        temperature: see `likelihoods.sample_softmax`.
        label: name under which progress is shown; None shows none.
    """
    height, width = x.shape[2:]
    progress = Progress(height, label, "row") if label else None
    for row in range(height):
        network.start_row(row)
        for column in range(width if row >= known_rows else 0):
            for colour in range(3):
                logits = network.logits(column).chunk(3, dim=1)[colour]
                values = sample_softmax(logits, uniforms[:, colour, row, column], temperature)
                x[:, colour, row, column] = scale_to_unit(values, x.dtype)
        if progress is not None:
            progress.update()
