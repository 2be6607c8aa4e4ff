"""Random numbers while training: the same for an image whatever part of the batch is computed together.

A step's batch may be computed in pieces, on one device after another or on several at once. Every piece draws for the whole
batch from the same seed and keeps its own rows; that is little beside the convolutions, and neither the number of devices
nor the size of a piece changes what an image meets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_piece: tuple[int, int] | None = None  # first row, rows of the whole batch


@contextmanager
def piece_of_batch(seed: int, step: int, first: int, whole: int) -> Iterator[None]:
    """While active, draws are those of rows `first` and following of the batch of `whole` images of a step."""
    global _piece
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    _piece = (first, whole)
    try:
        yield
    finally:
        _piece = None


def normal(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal numbers of a shape that begins with the rows of this piece."""
    first, whole = _piece or (0, shape[0])
    return torch.randn((whole, *shape[1:]), device=like.device, dtype=like.dtype)[first : first + shape[0]]


def random_bytes(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform bytes (uint8) of a shape that begins with the rows of this piece; eight come from one draw of the generator."""
    first, whole = _piece or (0, shape[0])
    row = math.prod(shape[1:])
    words = torch.empty(-(-whole * row // 8), dtype=torch.int64, device=device).random_(-(2**63), None)
    return words.view(torch.uint8)[first * row : (first + shape[0]) * row].view(shape)
