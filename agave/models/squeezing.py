"""Rearrangements of pixels for flows: checkerboards, and pixels that become channels (Dinh et al. 2017, sections 3.4 and 3.6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def checkerboard(h: int, w: int, odd: bool) -> Tensor:
    """Return a mask (h, w): 1 where row + column is odd, or with `odd` False even, and 0 elsewhere."""
    parity = (torch.arange(h)[:, None] + torch.arange(w)) % 2
    return (parity if odd else 1 - parity).float()


def squeeze(x: Tensor) -> Tensor:
    """Bring each square of 2x2 pixels to the channels: (B, C, H, W) -> (B, 4 C, H/2, W/2), channel 4 c + 2 row + column."""
    return F.pixel_unshuffle(x, 2)


def ordered_squeeze(x: Tensor) -> tuple[Tensor, Tensor]:
    """Divide (B, C, H, W) into the two colours of a checkerboard, each (B, 2 C, H/2, W/2), position outer and channel inner.

    Returns:
        The pixels that go on to the next scale, where row + column is even, and those that are factored out.
    """
    kept = torch.cat((x[:, :, 0::2, 0::2], x[:, :, 1::2, 1::2]), dim=1)
    return kept, torch.cat((x[:, :, 0::2, 1::2], x[:, :, 1::2, 0::2]), dim=1)


def ordered_unsqueeze(kept: Tensor, factored: Tensor) -> Tensor:
    """Return x (B, C, H, W), the inverse of `ordered_squeeze`."""
    (even, odd), (right, left) = kept.chunk(2, dim=1), factored.chunk(2, dim=1)
    return F.pixel_shuffle(torch.stack((even, right, left, odd), dim=2).flatten(1, 2), 2)
