"""PixelCNN++ as a system of its own: the unconditional baseline of Table 1."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from agave.config import Model, Sample
from agave.config_networks import SystemBlock
from agave.likelihoods import mixture_log_prob
from agave.models.interface import LikelihoodModel, Noise, Terms, scale_to_unit
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.random_numbers import PIXELS, PIXELS_GIVEN_PRIOR, RandomNumbers
from agave.sampling import sample


class PixelCNNppAlone(LikelihoodModel):
    """PixelCNN++ alone, the unconditional baseline, with an exact likelihood.

    Args:
        network: an unconditional PixelCNN++.
        image_size: height and width of x, pixels.
    """

    system = "pixelcnn_pp"
    bound = "exact"
    parts = ("pixelcnn_pp",)

    def __init__(self, network: PixelCNNpp, image_size: int) -> None:
        super().__init__(image_size)
        self.pixelcnn_pp = network

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> PixelCNNppAlone:
        """Make an untrained model; it has no auxiliary image."""
        return cls(PixelCNNpp.from_options(options.pixelcnn_pp), image_size)

    def draw_noise(self, batch: int, numbers: RandomNumbers) -> Noise:
        """Return the masks of dropout."""
        return {"dropout": self.pixelcnn_pp.dropout_masks(batch, self.image_size, self.image_size, numbers)}

    def terms(self, encoding: None, x_uint8: Tensor, y_uint8: Tensor | None, noise: Noise) -> Terms:
        """Return log p(x) = sum_i log p(x_i | x_<i); there is no KL."""
        zero = torch.zeros(x_uint8.shape[0], device=x_uint8.device)
        pixels = self.log_prob_subpixels(x_uint8, noise["dropout"])  # (B, H, W)
        return Terms(zero, pixels.sum((1, 2)), None, zero.sum(), pixels.detach())

    def log_prob_subpixels(self, x_uint8: Tensor, dropout: list[Tensor] | None = None) -> Tensor:
        """Return log p(x_i | x_<i) of every pixel, its three channels together: (B, 3, H, W) -> (B, H, W), nats."""
        logits = self.pixelcnn_pp(scale_to_unit(x_uint8, self.pixelcnn_pp.out.gain.dtype), None, dropout)
        return mixture_log_prob(self._for_likelihood(logits), x_uint8)

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Initialise the network from data, unless it is pretrained."""
        if "pixelcnn_pp" not in pretrained:
            self.pixelcnn_pp.initialise(scale_to_unit(x_uint8, self.pixelcnn_pp.out.gain.dtype))

    def sample(self, count: int, *, seed: int, first: int = 0, options: Sample | None = None, label: str | None = None) -> Tensor:
        """Draw images pixel by pixel, uint8 (count, 3, H, W)."""
        return self._draw(count, seed, first, PIXELS_GIVEN_PRIOR, options, label)

    def figure_images(self, x_uint8: Tensor, *, first: int, options: Sample, label: str | None = None) -> dict[str, Tensor]:
        """Make "original", "prior_sample", and "completion": all but the first rows of the originals drawn anew."""
        found = super().figure_images(x_uint8, first=first, options=options, label=label)
        given = x_uint8[:, :, : options.completion_rows]
        found["completion"] = self._draw(len(x_uint8), options.seed, first, PIXELS, options, label and f"{label} completion", given)
        return found

    def _draw(
        self, count: int, seed: int, first: int, stream: int, options: Sample | None, label: str | None, given: Tensor | None = None
    ) -> Tensor:
        size = self.image_size
        return sample(
            self.pixelcnn_pp,
            None,
            batch=count,
            shape=(size, size),
            seed=seed,
            first=first,
            stream=stream,
            options=options,
            given=given,
            label=label,
        )
