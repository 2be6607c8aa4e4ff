"""Convert nats to bits per dimension: the one function that divides. It needs no torch, so that tables and claims need none."""

from __future__ import annotations

import math
from typing import Any, TypeVar

Nats = TypeVar("Nats", bound=Any)
"""A float, a NumPy array or a tensor."""


def bits_per_dim(nats: Nats, dimensions: int) -> Nats:
    """Convert a negative log-likelihood in nats to bits per dimension.

    Args:
        nats: nats per image, a number, array or tensor of any shape.
        dimensions: number of values per image, 3 H W.

    Returns:
        Bits per dimension, of the same type and shape.
    """
    bits: Nats = nats / (dimensions * math.log(2))
    return bits
