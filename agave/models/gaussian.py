"""Independent Gaussians, given by means and log-deviations, and the layer that puts these out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agave.models.layers import WeightNormConv2d, at_least_float32

LOG_DEVIATION_LIMIT = 7.0
"""Log-deviations of latent variables are kept within plus and minus this."""


class Gaussian(NamedTuple):
    """Independent Gaussians: means and log-deviations of one shape, (B, ...)."""

    mean: Tensor
    log_deviation: Tensor

    @classmethod
    def from_outputs(cls, outputs: Tensor) -> Gaussian:
        """Make it from the outputs of a layer, (B, 2 C, ...)."""
        return cls(*at_least_float32(outputs).chunk(2, dim=1))

    def draw(self, noise: Tensor) -> Tensor:
        """Return mean + deviation * noise."""
        return self.mean + torch.exp(self.log_deviation) * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log N(z) without its constant, nats summed per image: (B,)."""
        standardized = (z - self.mean) * torch.exp(-self.log_deviation)
        return (-self.log_deviation - 0.5 * standardized.square()).flatten(1).sum(1)

    def kl(self, prior: Gaussian) -> Tensor:
        """Return the KL divergence of each value from its prior in closed form, nats: (B, ...)."""
        log_ratio = self.log_deviation - prior.log_deviation
        distance = (self.mean - prior.mean) * torch.exp(-prior.log_deviation)
        return 0.5 * (torch.exp(2 * log_ratio) + distance.square() - 1) - log_ratio


def gaussian_log_density(value: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Return log N(value; mean, exp(log_deviation)^2), nats, of tensors that broadcast."""
    return -0.5 * ((value - mean) * torch.exp(-log_deviation)).square() - log_deviation - 0.5 * math.log(2 * math.pi)


class GaussianConv(nn.Module):
    """Two convolutions, one to means and one to log-deviations, which start ten times smaller.

    Args:
        in_channels: number of channels of the input.
        out_channels: number of maps of means, and of log-deviations.
        kernel: height and width of the kernels, odd.
        init_scale: standard deviation of the means after data-dependent initialisation.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, init_scale: float) -> None:
        super().__init__()
        shape, padding = (in_channels, out_channels, (kernel, kernel)), (kernel // 2,) * 4
        self.mean = WeightNormConv2d(*shape, padding=padding, init_scale=init_scale)
        self.log_deviation = WeightNormConv2d(*shape, padding=padding, init_scale=0.1 * init_scale)

    def forward(self, h: Tensor) -> Gaussian:
        """Return means and log-deviations, (B, out_channels, H, W) each, in at least float32."""
        log_deviation = at_least_float32(self.log_deviation(h)).clamp(-LOG_DEVIATION_LIMIT, LOG_DEVIATION_LIMIT)
        return Gaussian(at_least_float32(self.mean(h)), log_deviation)
