"""The ResNet VAE with IAF as a system of its own, a baseline."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from agave.config import Model, Sample
from agave.config_networks import SystemBlock
from agave.likelihoods import sample_discretized_logistic
from agave.models.interface import Noise, Terms
from agave.models.vae_iaf import Encoding, LatentModel, as_image
from agave.random_numbers import PIXELS_GIVEN_PRIOR, KeyedNumbers


class VAEIAFAlone(LatentModel):
    """The VAE alone, a baseline. Its bound is on the likelihood of y, which is x at full resolution."""

    system = "vae_iaf"
    likelihood_of = "y"
    parts = ("vae",)

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> VAEIAFAlone:
        """Make an untrained model."""
        return cls(options, image_size, resolution, levels)

    def terms(self, encoding: list[Encoding], x_uint8: Tensor, y_uint8: Tensor | None, noise: Noise) -> Terms:
        """Return KL and log p(y | f(z))."""
        mean, kl_maps = self.vae.decode(encoding, noise["latents"])
        return self.terms_of(kl_maps, None, None if y_uint8 is None else self.log_prob_y(y_uint8, mean))

    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Initialise the network from data, unless it is pretrained."""
        if "vae" not in pretrained:
            assert y_uint8 is not None, "the scales of the logistics start at the spread of y"
            self.vae.initialise(x_uint8, y_uint8)

    @torch.inference_mode()
    def sample(self, count: int, *, seed: int, first: int = 0, options: Sample | None = None, label: str | None = None) -> Tensor:
        """Draw z from the prior, then y from p(y|z): uint8 (count, 3, r, r)."""
        images = range(first, first + count)
        mean = self.mean_image(None, images, seed)
        uniforms = KeyedNumbers(seed, PIXELS_GIVEN_PRIOR, images).uniform(0, tuple(mean.shape), mean)
        return sample_discretized_logistic(mean, self.vae.log_scale, uniforms, self.levels)

    def figure_images(self, x_uint8: Tensor, *, first: int, options: Sample, label: str | None = None) -> dict[str, Tensor]:
        """Make "original", "reconstruction" and "prior" (f(z) of posterior and prior), and "prior_draw", drawn from p(y|z)."""
        images = range(first, first + len(x_uint8))
        return {
            "original": x_uint8,
            "reconstruction": as_image(self.mean_image(x_uint8, images, options.seed)),
            "prior": as_image(self.mean_image(None, images, options.seed)),
            "prior_draw": self.sample(len(x_uint8), seed=options.seed, first=first),
        }
