"""Nonlinearities of the networks, each one autograd function that keeps no more than its backward pass needs.

A step of training is to cost little more than its convolutions. So each has two forms, equal to rounding: one pass over memory by
`kernels`, and torch's own operations, chosen among those that processors run as vectors, for everything else: another device or
precision, a machine without a compiler, torch.compile.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from agave.draws import random_bytes
from agave.models.ops import compiled

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
        if compiled.serve(x, channels_last=False):
            out = torch.empty_like(x)
            compiled.call("elu_forward", x, out, x.numel())
        else:
            out = torch.maximum(x, _exponential_part(x))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        if compiled.serve(out, grad, channels_last=False):
            grad_x = torch.empty_like(out)
            compiled.call("elu_backward", grad, out, grad_x, out.numel())
            return grad_x
        return torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, True, out)  # type: ignore[no-any-return]


class _ConcatELU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, padding: Padding, with_active: bool, draw: Tensor | None, dropped: int, scale: float
    ) -> tuple[Tensor, Tensor | None]:
        left, right, top, bottom = padding
        batch, channels, height, width = x.shape

        def empty(height: int, width: int) -> Tensor:
            shape = (batch, 2 * channels, height, width)
            return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)

        padded, active = empty(top + height + bottom, left + width + right), empty(height, width) if with_active else None
        if compiled.serve(x):
            shape = compiled.Shape(batch, height, width, channels, *padding)
            compiled.call("concat_elu_forward", x, draw, padded, active, shape, dropped, scale)
        else:
            _zero_borders(padded, padding)
            core, exponential = _inside(padded, padding), _exponential_part(x)
            if scale != 1:
                x, exponential = scale * x, exponential.mul_(scale)
            torch.maximum(x, exponential, out=core[:, :channels])
            torch.maximum(-x, exponential, out=core[:, channels:])
            if draw is not None:
                core.mul_(_kept(draw, dropped))
            if active is not None:
                active.copy_(core)
        ctx.save_for_backward(padded, draw)
        ctx.padding, ctx.dropped, ctx.scale = padding, dropped, scale
        ctx.set_materialize_grads(False)
        return padded, active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_padded: Tensor | None, grad_active: Tensor | None) -> tuple[Tensor | None, None, None, None, None, None]:
        padded, draw = ctx.saved_tensors
        given = [grad for grad in (grad_padded, grad_active) if grad is not None]
        if not given:
            return None, None, None, None, None, None
        core = _inside(padded, ctx.padding)
        batch, channels, height, width = core.shape
        if compiled.serve(padded, *given):
            grad_x = torch.empty((batch, channels // 2, height, width), dtype=padded.dtype, memory_format=torch.channels_last)
            shape = compiled.Shape(batch, height, width, channels // 2, *ctx.padding)
            compiled.call("concat_elu_backward", grad_padded, grad_active, padded, draw, grad_x, shape, ctx.dropped, ctx.scale)
            return grad_x, None, None, None, None, None
        if grad_padded is not None:
            given[0] = _inside(grad_padded, ctx.padding)
        grad = given[0] if len(given) == 1 else given[0] + given[1]
        # with dropout the result is scale * elu, whose slope at a kept element is result + scale below zero and scale above it
        slope = torch.ops.aten.elu_backward(grad, 1.0, ctx.scale, 1.0, True, core)
        if draw is not None:
            slope.mul_(_kept(draw, ctx.dropped))
        plus, minus = slope.chunk(2, dim=1)
        return plus - minus, None, None, None, None, None


def _kept(draw: Tensor, dropped: int) -> Tensor:
    """1 or 0 as a byte: a comparison, and a product with booleans, take several times as long."""
    return F.threshold(draw, dropped - 1, 0).clamp_(max=1)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(c)
        if compiled.serve(t, c):
            out = torch.empty_like(t)
            compiled.call("gate_forward", t, c, out, t.numel() // t.shape[1], t.shape[1])
            return out
        value, gate = c.chunk(2, dim=1)
        return torch.addcmul(t, value, _sigmoid(gate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (c,) = ctx.saved_tensors
        grad_c = torch.empty_like(c)
        if compiled.serve(c) and grad.dtype == c.dtype:
            grad = grad.contiguous(memory_format=torch.channels_last)
            compiled.call("gate_backward", grad, c, grad_c, grad.numel() // grad.shape[1], grad.shape[1])
            return grad, grad_c
        value, gate = c.chunk(2, dim=1)
        open_ = _sigmoid(gate)
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


def padded_concat_elu(x: Tensor, padding: Padding, dropout: float = 0.0, with_active: bool = False) -> tuple[Tensor, Tensor | None]:
    """concat_elu, then dropout, then zeros around, in one buffer.

    Args:
        x: (B, C, H, W).
        padding: zeros (left, right, top, bottom), as the convolution that follows needs them.
        dropout: probability of dropping an element, to the nearest 1/256; the others are scaled up.
        with_active: whether the same is wanted without the zeros.

    Returns:
        The buffer (B, 2C, H + top + bottom, W + left + right), and what lies inside the zeros as a tensor of its own,
        (B, 2C, H, W), or None.
    """
    draw, dropped, scale = None, 0, 1.0
    if dropout > 0:
        batch, channels, height, width = x.shape
        dropped = min(max(round(256 * dropout), 1), 255)
        draw = random_bytes((batch, height, width, 2 * channels), x.device).permute(0, 3, 1, 2)
        scale = 256 / (256 - dropped)
    return _ConcatELU.apply(x, padding, with_active, draw, dropped, scale)  # type: ignore[no-any-return]


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
