"""Nonlinearities of the networks, whatever computes them.

The functions here use torch's own operations on GPUs, under torch.compile and on CPUs without a C compiler. On a CPU in eager mode they
call the compiled kernels of `fused`, which give the same results up to rounding in one pass over memory. Nothing else calls these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from agave.models.ops import compiled, fused
from agave.models.ops.fused import NO_PADDING, Padding
from agave.random_numbers import kept_share

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
        """Return the input of a convolution with this padding, and the zeros that it still has to add."""
        if self.padded is not None:
            return self.padded, NO_PADDING
        assert self.plain is not None, "an activation has one of its two forms"
        return self.plain, padding


def elu(x: Tensor) -> Tensor:
    """Return x where it is positive, exp(x) - 1 where it is negative; any shape."""
    return fused.elu(x) if compiled.is_eager_cpu(x) else F.elu(x)


def concat_elu(x: Tensor, keep: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Return scale * elu([x, -x]), joined along channels: (B, C, ...) -> (B, 2C, ...).

    Args:
        x: (B, C, ...).
        keep: (B, 2C, ...) booleans, False for the elements that are set to 0; None: all are kept.
        scale: a positive factor.

    Source: Salimans et al. (2017), published code.
    """
    return _ConcatELU.apply(x, keep, scale)  # type: ignore[no-any-return]


class _ConcatELU(torch.autograd.Function):
    """Keeps nothing for its backward pass but its result, which the convolution that reads it keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor | None, scale: float) -> Tensor:
        out = torch.ops.aten.elu_(torch.cat((x, -x), dim=1), 1.0, scale, 1.0)
        if keep is not None:
            out = out.mul_(keep)
        ctx.save_for_backward(out, keep)
        ctx.scale = scale
        return out  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        out, keep = ctx.saved_tensors
        slope = torch.ops.aten.elu_backward(grad, 1.0, ctx.scale, 1.0, True, out)
        plus, minus = (slope if keep is None else slope.mul_(keep)).chunk(2, dim=1)
        return plus - minus, None, None


def activation(x: Tensor, padding: Padding, *, keep: Tensor | None = None, dropout: float = 0.0, plain: bool = True) -> Activation:
    """Return dropout(concat_elu(x)).

    Args:
        x: (B, C, H, W).
        padding: zeros (left, right, top, bottom) that the convolution which follows needs.
        keep: (B, H, W, 2C) booleans, False for the elements that are dropped; None: none are.
        dropout: probability of dropping an element; those that are kept are scaled up.
        plain: whether the form without zeros is wanted, too.
    """
    scale = 1.0 if keep is None else 1 / kept_share(dropout)
    if compiled.serve(x):
        return Activation(*fused.concat_elu(x, padding, keep, scale, plain))
    return Activation(concat_elu(x, None if keep is None else keep.permute(0, 3, 1, 2), scale), None)


def gate(t: Tensor, c: Tensor) -> Tensor:
    """Return t + p * sigmoid(q) with (p, q) the two halves of c: (B, F, H, W), (B, 2F, H, W) -> (B, F, H, W)."""
    if compiled.serve(t, c):
        return fused.gate(t, c)
    p, q = c.chunk(2, dim=1)
    return t + p * torch.sigmoid(q)
