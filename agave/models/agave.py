"""AGAVE: a VAE whose decoder output f(z) reconstructs y and conditions a PixelCNN++ that models x."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from agave.config import Model, Sample
from agave.config_networks import SystemBlock
from agave.likelihoods import mixture_log_prob
from agave.models.interface import Noise, Terms, scale_to_unit
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.models.vae_iaf import Encoding, LatentModel, as_image
from agave.random_numbers import PIXELS, PIXELS_GIVEN_POSTERIOR, PIXELS_GIVEN_PRIOR, RandomNumbers, StepNumbers
from agave.sampling import sample


class AGAVE(LatentModel):
    """The paper's model: p(x, y, z) = p(z) p(y | f(z)) p(x | f(z)), trained by Eq. 7.

    Args:
        options: sizes and choices, the block `model` of params.yaml.
        image_size: height and width of x, pixels.
        resolution: height and width of y, pixels; None: those of x.
        levels: colour levels b of y.

    Source: AGAVE paper, section 3.2, Figure 2.
    """

    system = "agave"
    parts = ("vae", "pixelcnn_pp")

    def __init__(self, options: Model, image_size: int, resolution: int | None = None, levels: int = 256) -> None:
        super().__init__(options, image_size, resolution, levels)
        self.pixelcnn_pp = PixelCNNpp.from_options(options.pixelcnn_pp, feature_channels=3)

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> AGAVE:
        """Make an untrained model."""
        return cls(options, image_size, resolution, levels)

    def terms(self, encoding: list[Encoding], x_uint8: Tensor, y_uint8: Tensor | None, noise: Noise) -> Terms:
        """Return the three terms of Eq. 7: KL, log p(y | f(z)) and log p(x | f(z))."""
        mean, kl_maps = self.vae.decode(encoding, noise["latents"])  # f(z), (B, 3, r, r)
        log_prob_pixels = self.log_prob_of_pixels(x_uint8, self.features(mean), noise.get("dropout"))
        log_prob_y = None if y_uint8 is None else self.log_prob_y(y_uint8, mean)
        return self.terms_of(kl_maps, log_prob_pixels, log_prob_y)

    def features(self, mean: Tensor) -> Tensor:
        """Return f(z) as the PixelCNN++ sees it.

        Args:
            mean: (B, 3, r, r), in edge units: the value v occupies [v, v + 1) of [0, 256].

        Returns:
            (B, 3, H, W), black and white at -1 and 1, at the size of x.
        """
        # PAPER: The paper does not give the range of f(z) that conditions the PixelCNN. Values outside the colour range are clipped.
        features = ((mean - 128.0) / 127.5).clamp(-1.0, 1.0)  # v + 0.5, the centre of v, becomes (v - 127.5) / 127.5
        if self.options.detach_features:
            features = features.detach()
        if features.shape[-1] == self.image_size:
            return features
        # PAPER: The paper conditions on "an upsampled version" of a low-resolution f(z). `model.upsampling` sets how.
        if self.options.upsampling == "nearest":
            return F.interpolate(features, size=self.image_size, mode="nearest")
        return F.interpolate(features, size=self.image_size, mode="bilinear", align_corners=False)

    def log_prob_of_pixels(self, x_uint8: Tensor, features: Tensor, dropout: list[Tensor] | None = None) -> Tensor:
        """Return log p(x_i | x_<i, f(z)) of every pixel, its three channels together, (B, H, W) nats. Their sum is log p(x | f(z)).

        Args:
            x_uint8: (B, 3, H, W).
            features: (B, 3, H, W) of `features`.
            dropout: masks of the PixelCNN++'s dropout, or None.
        """
        logits = self.pixelcnn_pp(scale_to_unit(x_uint8, self.pixelcnn_pp.out.gain.dtype), features, dropout)
        return mixture_log_prob(self._for_likelihood(logits), x_uint8)

    def draw_noise(self, batch: int, numbers: RandomNumbers) -> Noise:
        """Return the noise of the latent variables and the masks of dropout."""
        latents, size = self.vae.latent_noise(batch, numbers), self.image_size
        return {"latents": latents, "dropout": self.pixelcnn_pp.dropout_masks(batch, size, size, numbers)}

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Initialise from data the parts that are not pretrained, and the new feature stream of a pretrained PixelCNN++."""
        if "vae" not in pretrained:
            assert y_uint8 is not None, "the scales of the logistics start at the spread of y"
            self.vae.initialise(x_uint8, y_uint8)
        mean, _ = self.vae.decode(self.vae.encode(x_uint8), self.vae.latent_noise(len(x_uint8), StepNumbers()))
        x, features = scale_to_unit(x_uint8, self.pixelcnn_pp.out.gain.dtype), self.features(mean)
        if "pixelcnn_pp" in pretrained:
            self.pixelcnn_pp.initialise_stream(x, features)
        else:
            self.pixelcnn_pp.initialise(x, features)

    def is_added(self, name: str) -> bool:
        """Return whether a weight belongs to the feature stream, which the pretrained PixelCNN++ lacks."""
        return name.startswith("pixelcnn_pp.stream.") or ".inject." in name

    @torch.inference_mode()
    def sample(self, count: int, *, seed: int, first: int = 0, options: Sample | None = None, label: str | None = None) -> Tensor:
        """Draw z from the prior, then x pixel by pixel given f(z): uint8 (count, 3, H, W)."""
        mean = self.mean_image(None, range(first, first + count), seed)
        return self._draw(mean, seed, first, PIXELS_GIVEN_PRIOR, options, label)

    @torch.inference_mode()
    def figure_images(self, x_uint8: Tensor, *, first: int, options: Sample, label: str | None = None) -> dict[str, Tensor]:
        """Make the images that the figures show.

        "reconstruction" and "prior" are f(z) of posterior and prior; "reconstruction_sample" and "prior_sample" are drawn given them;
        "completion" is the original with all but its first rows drawn anew given the reconstruction's f(z).
        """
        seed, images = options.seed, range(first, first + len(x_uint8))
        given = x_uint8[:, :, : options.completion_rows]
        posterior, prior = self.mean_image(x_uint8, images, seed), self.mean_image(None, images, seed)
        return {
            "original": x_uint8,
            "reconstruction": as_image(posterior),
            "reconstruction_sample": self._draw(
                posterior, seed, first, PIXELS_GIVEN_POSTERIOR, options, label and f"{label} reconstruction"
            ),
            # PIXELS: the completion shares no noise with the sample given the same f(z)
            "completion": self._draw(posterior, seed, first, PIXELS, options, label and f"{label} completion", given),
            "prior": as_image(prior),
            "prior_sample": self._draw(prior, seed, first, PIXELS_GIVEN_PRIOR, options, label and f"{label} prior"),
        }

    def _draw(
        self, mean: Tensor, seed: int, first: int, stream: int, options: Sample | None, label: str | None, given: Tensor | None = None
    ) -> Tensor:
        shape, features = (self.image_size, self.image_size), self.features(mean)
        return sample(
            self.pixelcnn_pp,
            features,
            batch=len(mean),
            shape=shape,
            seed=seed,
            first=first,
            stream=stream,
            options=options,
            given=given,
            label=label,
        )
