"""Independent Gaussians, given by means and log-deviations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from agave.models.layers import at_least_float32


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
