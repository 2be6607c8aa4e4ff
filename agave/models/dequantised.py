"""Densities of dequantised images: what NICE and Real NVP share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from agave.config import Sample
from agave.models.interface import LikelihoodModel, Noise, Terms
from agave.random_numbers import PRIOR, KeyedNumbers, RandomNumbers


class Flow(Protocol):
    """An invertible network between data y and independent values z, with D values each."""

    def __call__(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and log |det dz/dy| (B,), nats."""

    def inverse(self, z: Tensor) -> Tensor:
        """Return y from z (B, D)."""


class DequantisedDensity(LikelihoodModel):
    """A density of v = x + u with u uniform in (0, 1): level units, in which the 8-bit value x occupies [x, x + 1).

    A fixed map of the data, `standardise`, and an invertible network, `flow`, take v to values z that are independent under the prior:
    log p(v) = sum_d log p(z_d) + log |det dz/dv|. By Jensen's inequality the mean of log p(x + u) over u is a lower bound on
    log P(x) = log E p(x + u); one draw of u is what the papers report.

    The values and log-determinants are computed in at least `likelihood_dtype`, and the networks inside the couplings in the dtype of
    their weights: a coupling is invertible and its log-determinant exact whatever its network computes.

    Attributes:
        flow: the network.
    """

    bound = "dequantised"
    flow: Flow

    @abstractmethod
    def standardise(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the data that the network is given, and log |det dy/dv|, (B,) or (), nats, for v (B, 3, H, W) in level units."""

    @abstractmethod
    def to_levels(self, y: Tensor) -> Tensor:
        """Return v (B, 3, H, W) in level units: the inverse of `standardise`."""

    @abstractmethod
    def log_prior(self, z: Tensor) -> Tensor:
        """Return the log-density of every value under the prior, nats, shape of z."""

    @abstractmethod
    def draw_prior(self, numbers: RandomNumbers, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return values drawn from the prior."""

    def log_density(self, v: Tensor) -> Tensor:
        """Return log p(v) in level units, (B,) nats, for v (B, 3, H, W)."""
        y, log_det_data = self.standardise(v)
        z, log_det = self.flow(y)
        return self.log_prior(z).sum(1) + log_det + log_det_data

    def draw_noise(self, batch: int, numbers: RandomNumbers) -> Noise:
        """Return the noise of the dequantisation, uniform in (0, 1)."""
        # Phi(n) of a normal n is uniform. The keyed numbers' own `uniform` leaves out 1e-5 at both ends: noise of a smaller entropy, for
        # which the mean of log p(x + u) is no lower bound.
        normal = numbers.normal(0, (batch, 3, self.image_size, self.image_size), next(self.parameters()))
        return {"dequantisation": [torch.special.ndtr(normal).clamp(max=1 - 2**-24)]}

    def terms(self, encoding: None, x_uint8: Tensor, y_uint8: Tensor | None, noise: Noise) -> Terms:
        """Return log p(x + u); the noise has density 1, so there is no KL."""
        (u,) = noise["dequantisation"]
        v = self._for_likelihood(x_uint8.to(u.dtype)) + u  # (B, 3, H, W)
        zero = torch.zeros(len(x_uint8), device=x_uint8.device)
        return Terms(zero, self.log_density(v), None, zero.sum())

    @torch.inference_mode()
    def sample(self, count: int, *, seed: int, first: int = 0, options: Sample | None = None, label: str | None = None) -> Tensor:
        """Draw z from the prior and invert the map, uint8 (count, 3, H, W); values outside [0, 256) are clipped."""
        like = next(self.parameters()).new_empty(0, dtype=torch.float64)
        z = self.draw_prior(KeyedNumbers(seed, PRIOR, range(first, first + count)), (count, 3 * self.image_size**2), like)
        y = torch.cat([self.flow.inverse(one) for one in torch.split(z, 1)])  # one by one: an image does not depend on how many are drawn
        return torch.floor(self.to_levels(y)).clamp(0, 255).to(torch.uint8)
