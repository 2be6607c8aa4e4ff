"""Weight-normalised convolutions with data-dependent initialisation, shifted and masked forms among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agave.models.ops import NO_PADDING, Activation, Padding

Result = TypeVar("Result")


class DataDependent(nn.Module):
    """A layer that sets its parameters from its input while `initialising`; see `data_dependent_initialisation`."""

    initialising = False


class WeightNormConv2d(DataDependent):
    """A convolution with weight W = gain * V / ||V||, the norm taken per output channel over input channels and taps.

    Padding is given per side, because shifted convolutions pad only above and left. A transposed convolution of stride 2
    is cropped to twice the size of its input.

    Args:
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        kernel: (height, width).
        stride: 1 or 2.
        padding: zeros (left, right, top, bottom); for a transposed convolution the output columns and rows cut off at
            (left, top) before the crop.
        transposed: transposed convolution; the weight is then (in, out, height, width).
        init_scale: standard deviation of the output after data-dependent initialisation.
        log_gain: learn the logarithm of the gain (Kingma et al. 2016) instead of the gain (Salimans & Kingma 2016).
        bias: whether there is a bias.
        init_gain_exponent: the gain starts as (init_scale / std)^exponent; 1 is the intended form.

    Source: Salimans & Kingma (2016), Eq. 2 and section 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = NO_PADDING,
        transposed: bool = False,
        init_scale: float = 1.0,
        log_gain: bool = False,
        bias: bool = True,
        init_gain_exponent: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.padding, self.transposed = stride, padding, transposed
        self.init_scale, self.log_gain, self.init_gain_exponent = init_scale, log_gain, init_gain_exponent
        shape = (in_channels, out_channels, *kernel) if transposed else (out_channels, in_channels, *kernel)
        self.direction = nn.Parameter(0.05 * torch.randn(shape))
        self.gain = nn.Parameter(torch.zeros(out_channels) if log_gain else torch.ones(out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    @property
    def output_dimension(self) -> int:
        """Return the dimension of the weight that counts output channels."""
        return 1 if self.transposed else 0

    def masked_direction(self) -> Tensor:
        """Return V; subclasses set the hidden taps to zero."""
        return self.direction

    def weight(self) -> Tensor:
        """Return the effective weight W, (out, in, height, width), or (in, out, ...) if transposed."""
        dimension = self.output_dimension
        shape = [1, 1, 1, 1]
        shape[dimension] = -1
        gain = torch.exp(self.gain) if self.log_gain else self.gain
        return torch._weight_norm(self.masked_direction(), gain.view(shape), dimension)

    @torch.no_grad()
    def set_weight(self, weight: Tensor, bias: Tensor | None) -> None:
        """Set an effective weight and bias: V = W, gain = ||W|| per output channel.

        Raises:
            ValueError: a shape does not fit, or a bias is missing or not wanted.
        """
        if weight.shape != self.direction.shape:
            raise ValueError(f"weight has shape {tuple(weight.shape)}; accepted: {tuple(self.direction.shape)}")
        if (bias is None) != (self.bias is None) or (bias is not None and bias.shape != (self.out_channels,)):
            raise ValueError(f"bias has shape {None if bias is None else tuple(bias.shape)}; accepted: ({self.out_channels},)")
        others = tuple(d for d in range(4) if d != self.output_dimension)
        norm = weight.square().sum(others).sqrt()
        dead = norm == 0  # a zero output channel keeps a direction, so that it can learn
        self.direction.copy_(torch.where(self._per_output(dead), self.direction, weight))
        self.gain.copy_(torch.log(norm.clamp(min=torch.finfo(norm.dtype).tiny)) if self.log_gain else norm)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def forward(self, x: Tensor | Activation) -> Tensor:
        """Convolve (B, in, H, W); stride 2 halves H and W, transposed doubles them."""
        values, padding = (x.padded, NO_PADDING) if isinstance(x, Activation) else (x, self.padding)
        if self.initialising:
            return self._initialise(values, padding)
        return self._convolve(values, self.weight(), self.bias, padding)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Padding) -> Tensor:
        left, right, top, bottom = padding
        if self.transposed:
            height, width = (self.stride * n for n in x.shape[2:])
            if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):  # half precision runs five times slower there
                with full_precision(x):
                    return self._convolve(at_least_float32(x), weight, bias, padding).to(x.dtype)
            out = F.conv_transpose2d(x, weight, bias, stride=self.stride, output_padding=self.stride - 1)
            return out[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        if left == right and top == bottom:
            return F.conv2d(x, weight, bias, stride=self.stride, padding=(top, left))
        return F.conv2d(F.pad(x, padding), weight, bias, stride=self.stride)

    def _per_output(self, values: Tensor) -> Tensor:
        shape = [1, 1, 1, 1]
        shape[self.output_dimension] = -1
        return values.view(shape)

    @torch.no_grad()
    def _initialise(self, x: Tensor, padding: Padding) -> Tensor:
        """Set gain and bias so that the output has mean 0 and standard deviation init_scale on this batch; return that output."""
        self.gain.fill_(0.0 if self.log_gain else 1.0)
        out = self._convolve(x, self.weight(), None, padding)
        mean, variance = out.mean((0, 2, 3)), out.var((0, 2, 3), correction=0)
        # an input of zeros (the learned top of the VAE) says nothing about the scale: the layer keeps unit variance per unit norm
        deviation = torch.where(variance > 1e-8, torch.sqrt(variance + 1e-10), 1.0)
        gain = (self.init_scale / deviation) ** self.init_gain_exponent
        self.gain.copy_(torch.log(gain) if self.log_gain else gain)
        if self.bias is not None:
            self.bias.copy_(-mean * gain)
        return self._convolve(x, self.weight(), self.bias, padding)


class MaskedConv2d(WeightNormConv2d):
    """A 3x3 convolution that sees rows below, pixels to the right and, at its own pixel, channels of earlier groups.

    Channels fall into min(in, out) groups; output group i sees input groups up to i, or below i if `strict`. Stacked, such
    layers are autoregressive in reverse raster order, channels ascending inside a pixel. The norm is that of the masked V.

    Args:
        in_channels: number of channels of the input.
        out_channels: number of channels of the output; one of the two is a multiple of the other.
        strict: whether a value is hidden from itself.
        init_gain_exponent: see `WeightNormConv2d`.

    Raises:
        ValueError: neither number of channels is a multiple of the other.

    Source: Kingma et al. (2016), appendix C.
    """

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, strict: bool, init_gain_exponent: float = 1.0) -> None:
        groups = min(in_channels, out_channels)
        if max(in_channels, out_channels) % groups:
            raise ValueError(f"{in_channels} and {out_channels} channels; accepted: one a multiple of the other")
        super().__init__(in_channels, out_channels, (3, 3), padding=(1, 1, 1, 1), log_gain=True, init_gain_exponent=init_gain_exponent)
        mask = torch.zeros(out_channels, in_channels, 3, 3)
        mask[:, :, 1, 2] = 1
        mask[:, :, 2, :] = 1
        group_out = torch.arange(out_channels) * groups // out_channels
        group_in = torch.arange(in_channels) * groups // in_channels
        sees = group_in[None, :] < group_out[:, None] if strict else group_in[None, :] <= group_out[:, None]
        mask[:, :, 1, 1] = sees.float()
        self.register_buffer("mask", mask, persistent=False)

    def masked_direction(self) -> Tensor:
        """Return V with the hidden taps set to zero."""
        return self.direction * self.mask


def down_conv(in_channels: int, out_channels: int, kernel: tuple[int, int] = (2, 3), **options: object) -> WeightNormConv2d:
    """Make a convolution that sees its own row and the rows above: out(i, j) sees rows up to i, columns around j."""
    height, width = kernel
    padding = ((width - 1) // 2, (width - 1) // 2, height - 1, 0)
    return WeightNormConv2d(in_channels, out_channels, kernel, padding=padding, **options)  # type: ignore[arg-type]


def down_right_conv(in_channels: int, out_channels: int, kernel: tuple[int, int] = (2, 2), **options: object) -> WeightNormConv2d:
    """Make a convolution that sees its own pixel and what lies above and to the left: out(i, j) sees rows up to i, columns up to j."""
    height, width = kernel
    return WeightNormConv2d(in_channels, out_channels, kernel, padding=(width - 1, 0, height - 1, 0), **options)  # type: ignore[arg-type]


def nin(in_channels: int, out_channels: int, **options: object) -> WeightNormConv2d:
    """Make a 1x1 convolution ("network in network")."""
    return WeightNormConv2d(in_channels, out_channels, (1, 1), **options)  # type: ignore[arg-type]


def down_shift(x: Tensor) -> Tensor:
    """Drop the last row of (B, C, H, W) and put a row of zeros on top."""
    return F.pad(x[:, :, :-1], (0, 0, 1, 0))


def right_shift(x: Tensor) -> Tensor:
    """Drop the last column of (B, C, H, W) and put a column of zeros to the left."""
    return F.pad(x[:, :, :, :-1], (1, 0))


def at_least_float32(x: Tensor) -> Tensor:
    """Bring half-precision values, as autocast makes them, to float32; leave float32 and float64."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for the device of x: what a likelihood is given is never rounded to half precision."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


class Checkpointed(nn.Module):
    """A module whose activations may be computed again in the backward pass instead of being kept."""

    checkpointing = False

    def again(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a method of this module, keeping only its arguments and results if `checkpointing` is set."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)  # noise is an argument
        return function(*arguments)


@contextmanager
def data_dependent_initialisation(*modules: nn.Module) -> Iterator[None]:
    """While active, every weight-normalised layer of `modules` that runs sets its gain and bias from its input.

    Each layer's output is computed again with the new values, so the layers after it see the right statistics.
    """
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, DataDependent)]
    for layer in layers:
        layer.initialising = True
    try:
        yield
    finally:
        for layer in layers:
            layer.initialising = False


@contextmanager
def folded(module: nn.Module) -> Iterator[None]:
    """While active, the weight-normalised layers of `module` use the effective weights that they had at the start."""
    layers = [layer for layer in module.modules() if isinstance(layer, WeightNormConv2d)]
    with torch.no_grad():
        for layer in layers:
            weight = layer.weight()
            layer.__dict__["weight"] = lambda weight=weight: weight  # shadows the method of the class
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["weight"]
