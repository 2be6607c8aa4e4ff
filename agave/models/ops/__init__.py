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

__all__ = ["NO_PADDING", "Activation", "Padding", "activation", "elu", "gate"]


class Activation(NamedTuple):
    """concat_elu of a tensor, computed once for all convolutions that read it.

    Attributes:
        plain: (B, 2C, H, W); None where only the padded form was wanted.
        padded: (B, 2C, H + top + bottom, W + left + right), with the zeros around that a convolution of its stream needs.
    """

    plain: Tensor | None
    padded: Tensor


def elu(x: Tensor) -> Tensor:
    """Return x where it is positive, exp(x) - 1 where it is negative; any shape."""
    return fused.elu(x) if compiled.is_eager_cpu(x) else _ELU.apply(x)


class _PaddedConcatELU(torch.autograd.Function):
    """`activation` by torch's operations. It keeps only its result, which the convolution that reads it keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: Padding, keep: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        wide = F.pad(x, padding)
        padded = torch.ops.aten.elu_(torch.cat((wide, -wide), dim=1), 1.0, scale, 1.0)
        plain = _inside(padded, padding)
        if keep is not None:
            plain.mul_(keep)
        ctx.save_for_backward(padded, keep)
        ctx.padding, ctx.scale = padding, scale
        ctx.set_materialize_grads(False)
        return plain, padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_plain: Tensor | None, grad_padded: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        padded, keep = ctx.saved_tensors
        grads = [] if grad_plain is None else [grad_plain]
        grads += [] if grad_padded is None else [_inside(grad_padded, ctx.padding)]
        if not grads:
            return None, None, None, None
        grad = grads[0] if len(grads) == 1 else grads[0] + grads[1]
        slope = torch.ops.aten.elu_backward(grad, 1.0, ctx.scale, 1.0, True, _inside(padded, ctx.padding))
        plus, minus = (slope if keep is None else slope.mul_(keep)).chunk(2, dim=1)
        return plus - minus, None, None, None


def _inside(x: Tensor, padding: Padding) -> Tensor:
    left, right, top, bottom = padding
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


def activation(x: Tensor, padding: Padding, *, keep: Tensor | None = None, dropout: float = 0.0, plain: bool = True) -> Activation:
    """Return dropout(concat_elu(x)).

    Args:
        x: (B, C, H, W).
        padding: zeros (left, right, top, bottom) that the convolution which follows needs.
        keep: (B, H, W, 2C) booleans, False for the elements that are dropped; None: none are.
        dropout: probability of dropping an element; those that are kept are scaled up.
        plain: whether the form without zeros is wanted, too.

    Source: Salimans et al. (2017), published code.
    """
    scale = 1.0 if keep is None else 1 / kept_share(dropout)
    if compiled.serve(x):
        return Activation(*fused.concat_elu(x, padding, keep, scale, plain))
    return Activation(*_PaddedConcatELU.apply(x, padding, None if keep is None else keep.permute(0, 3, 1, 2), scale))


def gate(t: Tensor, c: Tensor) -> Tensor:
    """Return t + p * sigmoid(q) with (p, q) the two halves of c: (B, F, H, W), (B, 2F, H, W) -> (B, F, H, W)."""
    return fused.gate(t, c) if compiled.serve(t, c) else _Gate.apply(t, c)


class _ELU(torch.autograd.Function):
    """Keeps its result for the backward pass, which the convolution that reads it keeps anyway, and not its argument."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = F.elu(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, True, out)  # type: ignore[no-any-return]


class _Gate(torch.autograd.Function):
    """Keeps c alone for the backward pass; the sigmoid is computed again."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(c)
        p, q = c.chunk(2, dim=1)
        return t + p * torch.sigmoid(q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (c,) = ctx.saved_tensors
        p, q = c.chunk(2, dim=1)
        opened = torch.sigmoid(q)
        return grad, torch.cat((grad * opened, torch.ops.aten.sigmoid_backward(grad * p, opened)), dim=1)
