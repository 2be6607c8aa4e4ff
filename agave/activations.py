"""Nonlinearities of the networks, each one autograd function that keeps no more than its backward pass needs.

Written with the operations that processors run as vectors, all within one multiple of the memory traffic of the
convolutions around them: a step of training is to cost little more than its convolutions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from agave.draws import random_bytes

Padding = tuple[int, int, int, int]  # zeros (left, right, top, bottom)
NO_PADDING: Padding = (0, 0, 0, 0)


def _exponential_part(x: Tensor) -> Tensor:
    """exp(-|x|) - 1, which elu(x) is for negative x and elu(-x) for positive x.

    expm1 would be exact to the last digit for |x| below 1e-7, and is ten times slower; exp2 is a third of exp. Half precision
    needs float32 here.
    """
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return wide.abs().mul_(-1 / math.log(2)).exp2_().sub_(1).to(x.dtype)


def _sigmoid(x: Tensor) -> Tensor:
    """Of half precision by way of float32, which is four times as fast for a part of the channels."""
    return torch.sigmoid(x.float()).to(x.dtype) if x.dtype == torch.bfloat16 else torch.sigmoid(x)


class _ELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.maximum(x, _exponential_part(x))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, True, out)  # type: ignore[no-any-return]


class _ConcatELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: Padding, scale: float, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        left, right, top, bottom = padding
        batch, channels, height, width = x.shape
        shape = (batch, 2 * channels, top + height + bottom, left + width + right)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        _zero_borders(out, padding)
        core, exponential = _inside(out, padding), _exponential_part(x)
        if scale != 1:
            x, exponential = scale * x, exponential.mul_(scale)
        torch.maximum(x, exponential, out=core[:, :channels])
        torch.maximum(-x, exponential, out=core[:, channels:])
        if keep is not None:
            core.mul_(keep)
        ctx.save_for_backward(out, keep)
        ctx.padding, ctx.scale = padding, scale
        ctx.set_materialize_grads(False)
        return out, core

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_core: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        out, keep = ctx.saved_tensors
        parts = [part for part in (grad_core, None if grad_out is None else _inside(grad_out, ctx.padding)) if part is not None]
        if not parts:
            return None, None, None, None
        grad, out = parts[0] if len(parts) == 1 else parts[0] + parts[1], _inside(out, ctx.padding)
        # with dropout out is scale * elu, whose slope at a kept element is out + scale below zero and scale above it
        slope = torch.ops.aten.elu_backward(grad, 1.0, ctx.scale, 1.0, True, out)
        if keep is not None:
            slope.mul_(keep)
        plus, minus = slope.chunk(2, dim=1)
        return plus - minus, None, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(c)
        value, gate = c.chunk(2, dim=1)
        return torch.addcmul(t, value, _sigmoid(gate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (c,) = ctx.saved_tensors
        value, gate = c.chunk(2, dim=1)
        open_ = _sigmoid(gate)
        grad_c = torch.empty_like(c)
        grad_value, grad_gate = grad_c.chunk(2, dim=1)
        torch.mul(grad, open_, out=grad_value)
        torch.mul(grad_value, value, out=grad_gate)
        grad_gate.mul_(1 - open_)
        return grad, grad_c


def elu(x: Tensor) -> Tensor:
    """X where positive, exp(x) - 1 where negative; any shape."""
    return _ELU.apply(x)  # type: ignore[no-any-return]


def concat_elu(x: Tensor) -> Tensor:
    """elu([x, -x]) along channels: (B, C, ...) -> (B, 2C, ...)."""
    exponential = _exponential_part(x)
    return torch.cat((torch.maximum(x, exponential), torch.maximum(-x, exponential)), dim=1)


def padded_concat_elu(x: Tensor, padding: Padding, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """concat_elu, then dropout, then zeros around, in one buffer.

    Args:
        x: (B, C, H, W).
        padding: zeros (left, right, top, bottom), as the convolution that follows needs them.
        dropout: probability of dropping an element, to the nearest 1/256; the others are scaled up.

    Returns:
        The buffer (B, 2C, H + top + bottom, W + left + right), and the view of it inside the zeros, (B, 2C, H, W).
    """
    keep, scale = None, 1.0
    if dropout > 0:
        batch, channels, height, width = x.shape
        dropped = min(max(round(256 * dropout), 1), 255)
        draw = random_bytes((batch, height, width, 2 * channels), x.device)
        # 1 or 0 as a byte: a comparison, and a product with booleans, take several times as long
        keep, scale = F.threshold(draw, dropped - 1, 0).clamp_(max=1).permute(0, 3, 1, 2), 256 / (256 - dropped)
    return _ConcatELU.apply(x, padding, scale, keep)  # type: ignore[no-any-return]


def gate(t: Tensor, c: Tensor) -> Tensor:
    """T + p * sigmoid(q) with (p, q) the two halves of c: (B, F, H, W), (B, 2F, H, W) -> (B, F, H, W)."""
    return _Gate.apply(t, c)  # type: ignore[no-any-return]


def _inside(x: Tensor, padding: Padding) -> Tensor:
    left, right, top, bottom = padding
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


def _zero_borders(x: Tensor, padding: Padding) -> None:
    left, right, top, bottom = padding
    height, width = x.shape[2:]
    sides = [x[:, :, :top], x[:, :, height - bottom :], x[:, :, :, :left], x[:, :, :, width - right :]]
    for side, size in zip(sides, (top, bottom, left, right), strict=True):
        if size:
            side.zero_()
