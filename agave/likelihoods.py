"""Likelihoods of 8-bit images: discretized logistics, their mixtures, and the softmax. Pure functions of network outputs.

All values are in nats; `agave.units.bits_per_dim` converts them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from agave.auxiliary_image import quantize
from agave.models.ops import compiled
from agave.units import bits_per_dim as bits_per_dim

LOG_SCALE_MIN = -7.0  # of the mixture, in [-1, 1] units; a scale far below one colour level (Salimans et al. 2017)
_LIMIT = 1e18  # of standardized values: squares and sums over an image stay finite in float32


class _LogBinMass(torch.autograd.Function):
    """Compute log(sigmoid(upper) - sigmoid(lower)), with the lower edge at -inf where `first` and the upper at +inf where `last`.

    It is computed as log sigmoid(upper) + log sigmoid(-lower) + log(1 - exp(-(upper - lower))). This has no difference of nearly equal
    numbers, so the value and its gradient are exact far from the mean. The width is given by its logarithm, because upper - lower
    cancels for large values and underflows for large scales. The gradient is written by hand so that the parts need not be kept.
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor, log_width: Tensor, first: Tensor, last: Tensor) -> Tensor:
        # 1 - exp(-w) = 2 t / (1 + t) with t = tanh(w / 2) keeps all digits for any w, and needs no slow expm1
        t = torch.tanh(0.5 * torch.exp(log_width.clamp(max=80.0)))
        log_interior = torch.log(2.0 * t / (1.0 + t))
        ctx.save_for_backward(lower, upper, log_width, log_interior, first, last)
        log_mass = _log_sigmoid(upper).masked_fill_(last, 0.0) + _log_sigmoid(-lower).masked_fill_(first, 0.0)
        return log_mass + log_interior.masked_fill(first | last, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        lower, upper, log_width, log_interior, first, last = ctx.saved_tensors
        grad_upper = (grad * torch.sigmoid(-upper)).masked_fill_(last, 0.0)
        grad_lower = (grad * torch.sigmoid(lower)).masked_fill_(first, 0.0)
        # d log(1 - exp(-w)) / d log w = w exp(-w) / (1 - exp(-w))
        slope = torch.exp(log_width.clamp(max=80.0)) * (torch.exp(-log_interior) - 1.0)
        return -grad_lower, grad_upper, (grad * slope).masked_fill_(first | last, 0.0), None, None


def _log_sigmoid(x: Tensor) -> Tensor:
    """Compute F.logsigmoid with operations that run vectorised; the error is at most one rounding of 1."""
    return x.clamp(max=0.0) - torch.log(1.0 + torch.exp(-x.abs()))


def _log_bin_mass(lower: Tensor, upper: Tensor, log_width: Tensor, first: Tensor, last: Tensor) -> Tensor:
    return _LogBinMass.apply(lower, upper, log_width, first, last)  # type: ignore[no-any-return]


def discretized_logistic_log_prob(y_uint8: Tensor, mean: Tensor, log_scale: Tensor, levels: int = 256, tails: bool = True) -> Tensor:
    """Return the log-probability of the colour level of each value under a discretized logistic.

    With c = 256/b and k = floor(y/c), the probability is sigmoid((c(k+1) - mean)/s) - sigmoid((ck - mean)/s).

    Args:
        y_uint8: integers 0 to 255, any shape; levels are formed here.
        mean: mean of the logistic, in [0, 256] edge units (value v occupies [v, v+1)); shape that broadcasts with y.
        log_scale: log of the scale in the same units; shape that broadcasts with y.
        levels: number b of colour levels, a divisor of 256.
        tails: the first bin reaches to -inf and the last to +inf, so that the levels sum to one; False is Eq. 8 as printed.

    Returns:
        Nats, broadcast shape, dtype of `mean` (at least float32).

    Raises:
        ValueError: `levels` does not divide 256, or `y_uint8` is not of an integer type.

    Source: AGAVE paper, Eq. 8; Kingma et al. (2016), Eq. 22.
    """
    # PAPER: Eq. 8 as printed loses the mass outside [0, 256]. By default the edge bins absorb it (model.likelihood.tails).
    index = quantize(y_uint8, levels)
    dtype = torch.promote_types(torch.promote_types(mean.dtype, log_scale.dtype), torch.float32)
    mean, log_scale = mean.to(dtype), log_scale.to(dtype)
    bin_width = 256 // levels
    inverse_scale = torch.exp(-log_scale.clamp(-30.0, 80.0))
    lower = ((bin_width * index - mean) * inverse_scale).clamp(-_LIMIT, _LIMIT)
    upper = ((bin_width * (index + 1) - mean) * inverse_scale).clamp(-_LIMIT, _LIMIT)
    nowhere = torch.zeros_like(index, dtype=torch.bool)
    first, last = (index == 0, index == levels - 1) if tails else (nowhere, nowhere)
    log_width = (math.log(bin_width) - log_scale.clamp(-30.0, 80.0)).expand_as(lower)
    return _log_bin_mass(lower, upper, log_width, first, last)


def split_logits(logits: Float[Tensor, "b c *s"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split the output of PixelCNN++ into the parameters of a mixture of logistics.

    Args:
        logits: (B, 10 K, ...): K mixture logits, then for R, G and B each K means, K log-scales, K coefficients.

    Returns:
        Mixture logits (B, K, ...), means, log-scales and raw coefficients, each (B, 3, K, ...).

    Raises:
        ValueError: the number of channels is not a multiple of 10.
    """
    batch, _, *space = logits.shape
    mixtures = _mixtures(logits)
    weights, others = torch.split(logits, [mixtures, 9 * mixtures], dim=1)
    groups = others.reshape(batch, 3, 3, mixtures, *space)  # (B, colour, [mean, log-scale, coefficient], K, ...)
    means, log_scales, coefficients = groups.unbind(2)
    return weights, means, log_scales, coefficients


def _mixtures(logits: Tensor) -> int:
    channels = logits.shape[1]
    if channels % 10:
        raise ValueError(f"logits have {channels} channels; accepted: a multiple of 10 (10 per mixture component)")
    return channels // 10


def _component_bins(logits: Tensor, x_uint8: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log mixture weights (B, K, H, W), observed minus mean (B, 3, K, H, W) in [-1, 1] units, and log-scales (B, 3, K, H, W)."""
    mixture_logits, means, log_scales, coefficients = split_logits(logits)
    coefficients = torch.tanh(coefficients)
    x = (x_uint8.to(logits.dtype) - 127.5) / 127.5
    red, green = x[:, 0:1], x[:, 1:2]
    (of_red, of_green, of_blue), (red_green, red_blue, green_blue) = means.unbind(1), coefficients.unbind(1)
    means = torch.stack((of_red, of_green + red_green * red, of_blue + red_blue * red + green_blue * green), dim=1)
    centred = x.unsqueeze(2) - means
    return F.log_softmax(mixture_logits, dim=1), centred, log_scales.clamp(min=LOG_SCALE_MIN)


def _prepare_mixture(logits: Tensor, x_uint8: Tensor) -> Tensor:
    if x_uint8.is_floating_point() or x_uint8.shape[1:2] != (3,) or x_uint8.shape[2:] != logits.shape[2:]:
        raise ValueError(
            f"x_uint8 is {x_uint8.dtype} {tuple(x_uint8.shape)} for logits {tuple(logits.shape)}; "
            "accepted: integers (B, 3, H, W) of the same H, W"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).contiguous()  # each parameter of a pixel by itself


class _MixtureLogProb(torch.autograd.Function):
    """Compute `mixture_log_prob` and its gradient in one pass; for float32 on a CPU, as in training."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x_uint8: Tensor) -> Tensor:
        batch, _, height, width = logits.shape
        log_prob, grad = logits.new_empty(batch, height, width), torch.empty_like(logits)
        compiled.call("mixture_log_prob", logits, x_uint8, log_prob, grad, batch, _mixtures(logits), height * width)
        ctx.save_for_backward(grad)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (by_logits,) = ctx.saved_tensors
        return by_logits * grad.unsqueeze(1), None


def mixture_log_prob(logits: Float[Tensor, "b c h w"], x_uint8: UInt8[Tensor, "b 3 h w"] | Tensor) -> Tensor:
    """Return the log-probability of each pixel under the PixelCNN++ mixture of discretized logistics, by exact bin masses.

    Each pixel has one mixture indicator. The means of G and B depend linearly on the observed R and G of the same pixel. The edge
    bins absorb the tails, so the probabilities of the 256 values of a channel sum to one.

    Args:
        logits: (B, 10 K, H, W), layout of `split_logits`; computed in at least float32.
        x_uint8: (B, 3, H, W), integers 0 to 255.

    Returns:
        (B, H, W), nats per pixel (three channels together).

    Raises:
        ValueError: shapes or types do not fit.

    Source: Salimans et al. (2017), Eq. 1-3; the published code approximates bins of small mass, this function does not.
    """
    logits = _prepare_mixture(logits, x_uint8)
    if x_uint8.dtype == torch.uint8 and compiled.serve(logits, channels_last=False):
        return _MixtureLogProb.apply(logits, x_uint8.contiguous())  # type: ignore[no-any-return]
    log_weights, centred, log_scales = _component_bins(logits, x_uint8)
    inverse_scale = torch.exp(-log_scales.clamp(max=80.0))
    value = x_uint8.unsqueeze(2)
    lower = ((centred - 1 / 255) * inverse_scale).clamp(-_LIMIT, _LIMIT)
    upper = ((centred + 1 / 255) * inverse_scale).clamp(-_LIMIT, _LIMIT)
    log_width = math.log(2 / 255) - log_scales.clamp(max=80.0)
    log_bins = _log_bin_mass(lower, upper, log_width, value == 0, value == 255)  # (B, 3, K, H, W)
    return torch.logsumexp(log_weights + log_bins.sum(1), dim=1)


def mixture_log_prob_thresholded(logits: Float[Tensor, "b c h w"], x_uint8: Tensor) -> Tensor:
    """Compute the published form of `mixture_log_prob`, for comparison: bins of mass below 1e-5 use the density at their centre.

    Args, returns and errors are those of `mixture_log_prob`.

    Source: Salimans et al. (2017), published code.
    """
    logits = _prepare_mixture(logits, x_uint8)
    log_weights, centred, log_scales = _component_bins(logits, x_uint8)
    inverse_scale = torch.exp(-log_scales)
    lower, middle, upper = ((centred + shift) * inverse_scale for shift in (-1 / 255, 0.0, 1 / 255))
    mass = torch.sigmoid(upper) - torch.sigmoid(lower)
    density = middle - log_scales - 2 * F.softplus(middle) - math.log(127.5)
    log_bins = torch.where(mass > 1e-5, torch.log(mass.clamp(min=1e-12)), density)
    value = x_uint8.unsqueeze(2)
    log_bins = torch.where(value == 0, F.logsigmoid(upper), torch.where(value == 255, F.logsigmoid(-lower), log_bins))
    return torch.logsumexp(log_weights + log_bins.sum(1), dim=1)


class _SoftmaxLogProb(torch.autograd.Function):
    """Compute `softmax_log_prob` of values (n,) given logits (n, 256), in one pass; for float32 on a CPU, as in training."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor) -> Tensor:
        log_prob, log_sum = logits.new_empty(len(logits)), logits.new_empty(len(logits))
        compiled.call("softmax_log_prob", logits, values, log_prob, log_sum, *logits.shape)
        ctx.save_for_backward(logits, values, log_sum)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, values, log_sum = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        compiled.call("softmax_log_prob_backward", grad.contiguous(), logits, values, log_sum, grad_logits, *logits.shape)
        return grad_logits, None


def softmax_log_prob(logits: Float[Tensor, "b c h w"], x_uint8: Tensor) -> Tensor:
    """Return the log-probability of each sub-pixel under a softmax over all its values.

    Args:
        logits: (B, 3 L, H, W), colour-major: the L logits of R, then those of G and B; L is 256 for 8-bit images. The softmax is
            computed in at least float32.
        x_uint8: (B, 3, H, W), integers 0 to L - 1.

    Returns:
        (B, 3, H, W), nats per sub-pixel.

    Raises:
        ValueError: shapes or types do not fit.

    Source: van den Oord et al. (2016), Pixel Recurrent Neural Networks, section 3.4.
    """
    batch, channels, height, width = logits.shape
    if channels % 3 or x_uint8.is_floating_point() or tuple(x_uint8.shape) != (batch, 3, height, width):
        raise ValueError(
            f"x_uint8 is {x_uint8.dtype} {tuple(x_uint8.shape)} for logits {tuple(logits.shape)}; "
            "accepted: integers (B, 3, H, W) and logits (B, 3 L, H, W) of the same B, H, W"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = logits.permute(0, 2, 3, 1).reshape(-1, channels // 3)  # one a sub-pixel; no copy for channels-last logits
    values = x_uint8.permute(0, 2, 3, 1).reshape(-1)
    if x_uint8.dtype == torch.uint8 and channels == 3 * 256 and compiled.serve(rows, channels_last=False):
        log_prob: Tensor = _SoftmaxLogProb.apply(rows, values)
    else:
        log_prob = -F.cross_entropy(rows, values.long(), reduction="none")
    return log_prob.view(batch, height, width, 3).permute(0, 3, 1, 2)


def sample_softmax(logits: Float[Tensor, "b l"], uniforms: Float[Tensor, " b"], temperature: float = 1.0) -> Tensor:
    """Draw one value per row from a softmax, by the inverse of its distribution function.

    Args:
        logits: (B, L), one logit a value.
        uniforms: (B,), in (0, 1).
        temperature: divides the logits; 1 is the distribution of the model, towards 0 its likeliest value.

    Returns:
        (B,) integers 0 to L - 1.
    """
    cumulative = (logits / temperature).softmax(1).cumsum(1)
    return torch.searchsorted(cumulative, uniforms[:, None].contiguous()).squeeze(1).clamp(max=logits.shape[1] - 1)


def sample_mixture(
    logits: Float[Tensor, "b c"],
    mixture_uniforms: Float[Tensor, "b k"],
    uniforms: Float[Tensor, "b 3"],
    round_pixels: bool = True,
    temperature: float = 1.0,
) -> Tensor:
    """Draw one pixel per row from the mixture of logistics.

    Args:
        logits: (B, 10 K), layout of `split_logits`.
        mixture_uniforms: (B, K), in (0, 1): the component is the argmax of logits - log(-log u).
        uniforms: (B, 3), in (0, 1): one per colour channel.
        round_pixels: whether each channel is rounded to its 8-bit value before the next one uses it, which is exactly the
            discretized distribution. False leaves the values unrounded, as the published sampler does.
        temperature: divides the mixture logits and multiplies the scales; 1 is the distribution of the model, towards 0 its likeliest
            component.

    Returns:
        (B, 3) in [-1, 1].

    Source: Salimans et al. (2017), published sampler.
    """
    # PAPER: The published sampler feeds back unrounded values, which the network never saw in training. Ours rounds (sample.round_pixels).
    mixtures = mixture_uniforms.shape[1]
    gumbel = torch.log(-torch.log(mixture_uniforms))
    component = torch.argmax(torch.add(logits[:, :mixtures], gumbel, alpha=-temperature), dim=1)  # (l / T - g) T has the same argmax
    groups = logits[:, mixtures:].reshape(-1, 9, mixtures)  # (B, [colour: mean, log-scale, coefficient], K)
    chosen = groups.gather(2, component[:, None, None].expand(-1, 9, 1)).view(-1, 3, 3)  # one gather: this runs once a pixel
    scale = torch.exp(chosen[:, :, 1].clamp(min=LOG_SCALE_MIN))
    # in colour levels from mid grey, -127.5 to 127.5
    red, green, blue = (torch.addcmul(chosen[:, :, 0], scale, torch.logit(uniforms), value=temperature) * 127.5).unbind(1)
    coefficients = torch.tanh(chosen[:, :, 2])

    def finish(value: Tensor) -> Tensor:
        return torch.floor(value + 128.0).clamp(0.0, 255.0) - 127.5 if round_pixels else value.clamp(-127.5, 127.5)

    red = finish(red)
    green = finish(torch.addcmul(green, coefficients[:, 0], red))
    blue = finish(torch.addcmul(torch.addcmul(blue, coefficients[:, 1], red), coefficients[:, 2], green))
    return torch.stack((red, green, blue), dim=1) / 127.5


def sample_discretized_logistic(mean: Tensor, log_scale: Tensor, uniforms: Tensor, levels: int = 256) -> Tensor:
    """Draw 8-bit values from the discretized logistic with absorbed tails; a level is shown by the value at its centre.

    Args:
        mean: in [0, 256] edge units, any shape.
        log_scale: log of the scale in the same units, broadcastable.
        uniforms: in (0, 1), shape of `mean`.
        levels: number b of colour levels, a divisor of 256.

    Returns:
        uint8, shape of `mean`.
    """
    bin_width = 256 // levels
    value = mean + torch.exp(log_scale) * torch.logit(uniforms)
    index = torch.floor(value / bin_width).clamp(0, levels - 1)
    return (index * bin_width + bin_width // 2 if levels < 256 else index).to(torch.uint8)
