"""Discretized logistic likelihoods: pure functions of network outputs and 8-bit images.

Everything is in nats; `bits_per_dim` is the one place that divides.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from agave.auxiliary import quantize

LOG_SCALE_MIN = -7.0  # of the mixture, in [-1, 1] units; a scale far below one colour level (Salimans et al. 2017)
_LIMIT = 1e18  # of standardized values: squares and sums over an image stay finite in float32


Nats = TypeVar("Nats", float, Tensor, NDArray[np.float64])


def bits_per_dim(nats: Nats, dimensions: int) -> Nats:
    """Negative log-likelihood in nats to bits per dimension.

    Args:
        nats: nats per image.
        dimensions: number of values per image, 3 H W.
    """
    return nats / (dimensions * math.log(2))


def _log_bin_mass(lower: Tensor, upper: Tensor, log_width: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """log(sigmoid(upper) - sigmoid(lower)), with the lower edge at -inf where `first`, the upper at +inf where `last`.

    log sigmoid(upper) + log sigmoid(-lower) + log(1 - exp(-(upper - lower))): no difference of nearly equal numbers, so
    it is exact far from the mean, and its gradient too. The width is given by its logarithm because upper - lower cancels
    for large values and underflows for large scales.
    """
    # log(1 - exp(-w)) -> log w for w -> 0: below exp(-12) the next term of the series, -w/2, is under float32 rounding
    tiny = log_width < -12.0
    width = torch.exp(torch.where(tiny, 0.0, log_width.clamp(max=80.0)))
    log_interior = torch.where(tiny, log_width, torch.log(-torch.expm1(-width)))
    zero = torch.zeros((), dtype=lower.dtype, device=lower.device)
    log_mass = torch.where(last, zero, F.logsigmoid(upper)) + torch.where(first, zero, F.logsigmoid(-lower))
    return log_mass + torch.where(first | last, zero, log_interior)


def discretized_logistic_log_prob(y_uint8: Tensor, mean: Tensor, log_scale: Tensor, levels: int = 256, tails: bool = True) -> Tensor:
    """Log-probability of the colour level of each value under a discretized logistic.

    With c = 256/b and k = floor(y/c): sigmoid((c(k+1) - mean)/s) - sigmoid((ck - mean)/s).

    Args:
        y_uint8: integers 0 to 255, any shape; levels are formed here.
        mean: of the logistic, in [0, 256] edge units (value v occupies [v, v+1)); shape that broadcasts with y.
        log_scale: log of the scale in the same units; shape that broadcasts with y.
        levels: number b of colour levels, a divisor of 256.
        tails: the first bin reaches to -inf and the last to +inf, so that the levels sum to one; False is Eq. 8 as printed.

    Returns:
        Nats, broadcast shape, dtype of `mean` (at least float32).

    Raises:
        ValueError: `levels` does not divide 256, or `y_uint8` is not of an integer type.

    Source: AGAVE paper, Eq. 8; Kingma et al. (2016), Eq. 22.
    """
    # PAPER: Eq. 8 as printed loses the mass outside [0, 256]; by default the edge bins absorb it (model.likelihood.tails).
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
    """The parameters of a mixture of logistics from the PixelCNN++ output layout.

    Args:
        logits: (B, 10 K, ...): K mixture logits, then for R, G and B each K means, K log-scales, K coefficients.

    Returns:
        Mixture logits (B, K, ...), means, log-scales and raw coefficients, each (B, 3, K, ...).

    Raises:
        ValueError: the number of channels is no multiple of 10.
    """
    batch, channels, *space = logits.shape
    if channels % 10:
        raise ValueError(f"logits have {channels} channels; accepted: a multiple of 10 (10 per mixture component)")
    mixtures = channels // 10
    groups = logits[:, mixtures:].reshape(batch, 3, 3, mixtures, *space)  # (B, colour, [mean, log-scale, coefficient], K, ...)
    return logits[:, :mixtures], groups[:, :, 0], groups[:, :, 1], groups[:, :, 2]


def _component_bins(logits: Tensor, x_uint8: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log mixture weights (B, K, H, W), observed minus mean (B, 3, K, H, W) in [-1, 1] units, and log-scales (B, 3, K, H, W)."""
    mixture_logits, means, log_scales, coefficients = split_logits(logits)
    coefficients = torch.tanh(coefficients)
    x = (x_uint8.to(logits.dtype) - 127.5) / 127.5
    red, green = x[:, 0:1], x[:, 1:2]
    means = torch.stack(
        (
            means[:, 0],
            means[:, 1] + coefficients[:, 0] * red,
            means[:, 2] + coefficients[:, 1] * red + coefficients[:, 2] * green,
        ),
        dim=1,
    )
    centred = x.unsqueeze(2) - means
    return F.log_softmax(mixture_logits, dim=1), centred, log_scales.clamp(min=LOG_SCALE_MIN)


def _prepare_mixture(logits: Tensor, x_uint8: Tensor) -> Tensor:
    if x_uint8.is_floating_point() or x_uint8.shape[1:2] != (3,) or x_uint8.shape[2:] != logits.shape[2:]:
        raise ValueError(
            f"x_uint8 is {x_uint8.dtype} {tuple(x_uint8.shape)} for logits {tuple(logits.shape)}; "
            "accepted: integers (B, 3, H, W) of the same H, W"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def mixture_log_prob(logits: Float[Tensor, "b c h w"], x_uint8: UInt8[Tensor, "b 3 h w"] | Tensor) -> Tensor:
    """Log-probability of each pixel under the PixelCNN++ mixture of discretized logistics, by exact bin masses.

    One mixture indicator a pixel; the means of G and B depend linearly on the observed R and G of the same pixel; the edge
    bins absorb the tails, so each channel sums to one over its 256 values.

    Args:
        logits: (B, 10 K, H, W), layout of `split_logits`; computed in at least float32.
        x_uint8: (B, 3, H, W), integers 0 to 255.

    Returns:
        (B, H, W), nats per pixel (three channels together).

    Raises:
        ValueError: shapes or types do not fit.

    Source: Salimans et al. (2017), Eq. 1-3; the published code approximates bins of small mass, this does not.
    """
    logits = _prepare_mixture(logits, x_uint8)
    log_weights, centred, log_scales = _component_bins(logits, x_uint8)
    inverse_scale = torch.exp(-log_scales.clamp(max=80.0))
    value = x_uint8.unsqueeze(2)
    lower = ((centred - 1 / 255) * inverse_scale).clamp(-_LIMIT, _LIMIT)
    upper = ((centred + 1 / 255) * inverse_scale).clamp(-_LIMIT, _LIMIT)
    log_width = math.log(2 / 255) - log_scales.clamp(max=80.0)
    log_bins = _log_bin_mass(lower, upper, log_width, value == 0, value == 255)  # (B, 3, K, H, W)
    return torch.logsumexp(log_weights + log_bins.sum(1), dim=1)


def mixture_log_prob_thresholded(logits: Float[Tensor, "b c h w"], x_uint8: Tensor) -> Tensor:
    """The published form of `mixture_log_prob`, for comparison: bins of mass below 1e-5 by the density at their centre.

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


def sample_mixture(
    logits: Float[Tensor, "b c"], mixture_uniforms: Float[Tensor, "b k"], uniforms: Float[Tensor, "b 3"], round_pixels: bool = True
) -> Tensor:
    """Draw one pixel per row from the mixture of logistics.

    Args:
        logits: (B, 10 K), layout of `split_logits`.
        mixture_uniforms: (B, K), in (0, 1): the component is the argmax of logits - log(-log u).
        uniforms: (B, 3), in (0, 1): one per colour channel.
        round_pixels: round each channel to its 8-bit value before the next one uses it: exactly the discretized law.
            False leaves the values unrounded as the published sampler does.

    Returns:
        (B, 3) in [-1, 1].

    Source: Salimans et al. (2017), published sampler.
    """
    # PAPER: the published sampler feeds unrounded values back, which the network never saw in training; ours rounds (sample.round_pixels).
    mixture_logits, means, log_scales, coefficients = split_logits(logits)
    component = torch.argmax(mixture_logits - torch.log(-torch.log(mixture_uniforms)), dim=1)
    index = component[:, None, None].expand(-1, 3, 1)  # (B, 3, 1)
    means, log_scales, coefficients = (t.gather(2, index).squeeze(2) for t in (means, log_scales, coefficients))
    coefficients = torch.tanh(coefficients)
    noise = torch.exp(log_scales.clamp(min=LOG_SCALE_MIN)) * torch.logit(uniforms)

    def finish(value: Tensor) -> Tensor:
        value = value.clamp(-1.0, 1.0)
        return (torch.round(value * 127.5 + 127.5) - 127.5) / 127.5 if round_pixels else value

    red = finish(means[:, 0] + noise[:, 0])
    green = finish(means[:, 1] + coefficients[:, 0] * red + noise[:, 1])
    blue = finish(means[:, 2] + coefficients[:, 1] * red + coefficients[:, 2] * green + noise[:, 2])
    return torch.stack((red, green, blue), dim=1)


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
