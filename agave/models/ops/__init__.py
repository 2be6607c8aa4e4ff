"""Nonlinearities of the networks: one call each, whatever computes them.

What stands here are torch's own operations, for GPUs, torch.compile and CPUs without a C compiler. On a CPU in eager mode the
compiled kernels of `fused` take their place: the same results to rounding, in one pass over memory. This is the only door to them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from agave.models.ops import compiled, fused
from agave.models.ops.fused import NO_PADDING, Padding

__all__ = ["NO_PADDING", "Activation", "Padding", "activation", "concat_elu", "elu", "gate"]


class Activation(NamedTuple):
    """concat_elu of a tensor, computed once for all convolutions that read it.

    Attributes:
        plain: (B, 2C, H, W), or None where only the padded form is wanted.
        padded: (B, 2C, H + top + bottom, W + left + right), with the zeros that a convolution needs around it; None: the convolution pads.
    """

    plain: Tensor | None
    padded: Tensor | None

    def for_convolution(self, padding: Padding) -> tuple[Tensor, Padding]:
        """Return what a convolution with this padding reads, and the zeros that it still has to add."""
        if self.padded is not None:
            return self.padded, NO_PADDING
        assert self.plain is not None, "an activation has one of its two forms"
        return self.plain, padding


def elu(x: Tensor) -> Tensor:
    """Return x where it is positive, exp(x) - 1 where it is negative; any shape."""
    return fused.elu(x) if compiled.is_eager_cpu(x) else F.elu(x)


def concat_elu(x: Tensor, scale: float = 1.0) -> Tensor:
    """Return scale * elu([x, -x]), joined along channels: (B, C, ...) -> (B, 2C, ...).

    Source: Salimans et al. (2017), published code.
    """
    return torch.ops.aten.elu(torch.cat((x, -x), dim=1), 1.0, scale, 1.0)  # type: ignore[no-any-return]


def activation(x: Tensor, padding: Padding, *, noise: Tensor | None = None, dropout: float = 0.0, plain: bool = True) -> Activation:
    """Return dropout(concat_elu(x)).

    Args:
        x: (B, C, H, W).
        padding: zeros (left, right, top, bottom) that the convolution which follows needs.
        noise: (B, H, W, 2C) uniform bytes that decide what is dropped; None: nothing is.
        dropout: probability of dropping an element, to the nearest 1/256; the others are scaled up.
        plain: whether the form without zeros is wanted, too.
    """
    dropped = min(max(round(256 * dropout), 1), 255) if noise is not None else 0
    scale = 256 / (256 - dropped)
    if compiled.serve(x):
        return Activation(*fused.concat_elu(x, padding, noise, dropped, scale, plain))
    active = concat_elu(x, scale)
    if noise is not None:
        active = active * (noise.permute(0, 3, 1, 2) >= dropped)
    return Activation(active, None)


def gate(t: Tensor, c: Tensor) -> Tensor:
    """Return t + p * sigmoid(q) with (p, q) the two halves of c: (B, F, H, W), (B, 2F, H, W) -> (B, F, H, W)."""
    if compiled.serve(t, c):
        return fused.gate(t, c)
    p, q = c.chunk(2, dim=1)
    return torch.addcmul(t, p, torch.sigmoid(q))
