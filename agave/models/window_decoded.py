"""What the systems have in common whose latent variables condition a window-limited PixelCNN."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.config import Sample
from agave.likelihoods import mixture_log_prob
from agave.models.interface import LikelihoodModel, Noise, Terms, scale_to_unit
from agave.models.layers import data_dependent_initialisation
from agave.models.window_pixelcnn import WindowPixelCNN
from agave.random_numbers import PIXELS_GIVEN_POSTERIOR, PIXELS_GIVEN_PRIOR, POSTERIOR, PRIOR, KeyedNumbers, RandomNumbers
from agave.sampling import sample_in_windows


class WindowDecodedModel(LikelihoodModel):
    """A system with p(x, z) = p(z) p(x | phi(z)), in which the features phi(z) condition a window-limited PixelCNN.

    Args:
        image_size: height and width of x, pixels.
        divisor: image_size must be a multiple of it.
        decoder: the PixelCNN.

    Raises:
        ValueError: it is not.
    """

    bound = "elbo"

    def __init__(self, image_size: int, divisor: int, decoder: WindowPixelCNN) -> None:
        if image_size % divisor:
            raise ValueError(f"image_size {image_size}; accepted: multiples of {divisor}")
        super().__init__(image_size)
        self.decoder = decoder

    @abstractmethod
    def latent_noise(self, batch: int, numbers: RandomNumbers) -> list[Tensor]:
        """Return the standard normal noise of the latent variables, one tensor of B rows for each group."""

    @abstractmethod
    def infer(self, encoding: Any, noise: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return phi(z) with z from the posterior, and its KL.

        Args:
            encoding: result of `encode`.
            noise: result of `latent_noise`.

        Returns:
            phi(z), (B, C, H, W); log q(z|x) - log p(z), (B,) nats; the KL of the objective, summed over the batch, () nats.
        """

    @abstractmethod
    def generate(self, noise: list[Tensor]) -> Tensor:
        """Return phi(z), (B, C, H, W), with z from the prior."""

    def draw_noise(self, batch: int, numbers: RandomNumbers) -> Noise:
        """Return the noise of the latent variables."""
        return {"latents": self.latent_noise(batch, numbers)}

    def terms(self, encoding: Any, x_uint8: Tensor, y_uint8: Tensor | None, noise: Noise) -> Terms:
        """Return KL and log p(x | phi(z))."""
        features, kl, kl_objective = self.infer(encoding, noise["latents"])
        pixels = self.log_prob_of_pixels(x_uint8, features)  # (B, H, W)
        return Terms(kl, pixels.sum((1, 2)), None, kl_objective, pixels.detach())

    def log_prob_of_pixels(self, x_uint8: Tensor, features: Tensor) -> Tensor:
        """Return log p(x_i | x_window(i), phi) of every pixel, its three channels together: (B, 3, H, W) -> (B, H, W), nats."""
        logits = self.decoder(scale_to_unit(x_uint8, self.decoder.out.gain.dtype), features)
        return mixture_log_prob(self._for_likelihood(logits), x_uint8)

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Initialise the network from data."""
        with data_dependent_initialisation(self):
            self(x_uint8)

    @torch.inference_mode()
    def sample(self, count: int, *, seed: int, first: int = 0, options: Sample | None = None, label: str | None = None) -> Tensor:
        """Draw z from the prior, then x pixel by pixel given phi(z): uint8 (count, 3, H, W)."""
        features = self.generate(self.latent_noise(count, KeyedNumbers(seed, PRIOR, range(first, first + count))))
        return sample_in_windows(self.decoder, features, seed=seed, first=first, stream=PIXELS_GIVEN_PRIOR, options=options, label=label)

    def reconstruct(self, images: NDArray[np.uint8] | Tensor, seed: int = 0) -> Tensor:
        """Return images drawn from p(x | phi(z)) with z drawn from the posterior of the given ones, uint8 (N, 3, H, W)."""
        return self._reconstruction_sample(self.check_images(images), seed, 0)

    def figure_images(self, x_uint8: Tensor, *, first: int, options: Sample, label: str | None = None) -> dict[str, Tensor]:
        """Make "original", "prior_sample", and "reconstruction_sample", drawn given z from the posterior of the originals."""
        found = super().figure_images(x_uint8, first=first, options=options, label=label)
        found["reconstruction_sample"] = self._reconstruction_sample(
            x_uint8, options.seed, first, options, label and f"{label} reconstruction"
        )
        return found

    @torch.inference_mode()
    def _reconstruction_sample(
        self, x_uint8: Tensor, seed: int, first: int, options: Sample | None = None, label: str | None = None
    ) -> Tensor:
        noise = self.latent_noise(len(x_uint8), KeyedNumbers(seed, POSTERIOR, range(first, first + len(x_uint8))))
        features, _, _ = self.infer(self.encode(x_uint8), noise)
        return sample_in_windows(
            self.decoder, features, seed=seed, first=first, stream=PIXELS_GIVEN_POSTERIOR, options=options, label=label
        )
