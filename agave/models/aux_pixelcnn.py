"""Auxiliary PixelCNN (Kolesnikov & Lampert 2017): a grey image of few levels first, then the colours given it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.auxiliary_image import quantize
from agave.config import Model, Sample
from agave.config_networks import AuxPixelCNNModel, SystemBlock
from agave.likelihoods import mixture_log_prob
from agave.models.interface import LikelihoodModel, Noise, Terms, scale_to_unit
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.random_numbers import PIXELS_GIVEN_POSTERIOR, PIXELS_GIVEN_PRIOR, PRIOR, RandomNumbers
from agave.sampling import PixelLaw, sample


def grey_levels(x_uint8: Tensor, levels: int = 16) -> Tensor:
    """Return the grey image y = g(x): the luminance 0.299 R + 0.587 G + 0.114 B, rounded and quantized.

    Args:
        x_uint8: (B, 3, H, W), integers 0 to 255.
        levels: number b of levels, a divisor of 256.

    Returns:
        int64 (B, 1, H, W), 0 to b - 1.

    Raises:
        ValueError: x is no integer (B, 3, H, W), or b does not divide 256.

    Source: Kolesnikov & Lampert (2017), grey images of 4 bits.
    """
    if x_uint8.is_floating_point() or x_uint8.ndim != 4 or x_uint8.shape[1] != 3:
        raise ValueError(f"x_uint8 is {x_uint8.dtype} {tuple(x_uint8.shape)}; accepted: integers (B, 3, H, W)")
    # PAPER: The weights of the luminance and its rounding are not known to us. The arithmetic is in integers, the same on every device.
    red, green, blue = x_uint8.to(torch.int32).chunk(3, dim=1)
    return quantize((299 * red + 587 * green + 114 * blue + 500) // 1000, levels)


def grey_value(level: Tensor, levels: int) -> Tensor:
    """Return the 8-bit value at the centre of a grey level, uint8, of any shape."""
    return (level * (256 // levels) + 128 // levels).to(torch.uint8)


class AuxiliaryPixelCNN(LikelihoodModel):
    """One PixelCNN++ for the grey image y = g(x), another for x given y: log p(x) >= log p(y) + log p(x | y).

    The posterior of y is a point mass at g(x), so its KL from the prior is -log p(y). The bound is strict, because p(x | y) gives some
    probability to images that have another grey image than y. But for dropout, nothing in it is random.

    Args:
        grey: network of y, which is shown to it in all three channels; it puts out a logit for each level.
        colour: network of x with one feature channel, y.
        levels: number of levels of y, a divisor of 256.
        image_size: height and width of x, pixels.

    Source: Kolesnikov & Lampert (2017), Grayscale PixelCNN.
    """

    system = "aux_pixelcnn"
    bound = "elbo"

    def __init__(self, grey: PixelCNNpp, colour: PixelCNNpp, levels: int, image_size: int) -> None:
        super().__init__(image_size)
        self.grey, self.colour, self.levels = grey, colour, levels

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> AuxiliaryPixelCNN:
        """Make an untrained model; its grey image has the size of x and the levels of its own block."""
        assert isinstance(sizes, AuxPixelCNNModel)
        # PAPER: The likelihood of the grey image is not known to us. Ours is a softmax over its levels, which sums to one.
        of_grey, of_colours = sizes.networks(options.pixelcnn_pp)
        grey = PixelCNNpp.from_options(of_grey, outputs=sizes.levels)
        # PAPER: The paper embeds y by residual layers of its own. Here y takes the place of f(z) in the feature stream of AGAVE.
        return cls(grey, PixelCNNpp.from_options(of_colours, feature_channels=1), sizes.levels, image_size)

    def draw_noise(self, batch: int, numbers: RandomNumbers) -> Noise:
        """Return the masks of dropout of both networks."""
        networks, size = {"grey_dropout": self.grey, "colour_dropout": self.colour}, self.image_size
        return {name: network.dropout_masks(batch, size, size, numbers) for name, network in networks.items()}

    def encode(self, x_uint8: Tensor) -> Tensor:
        """Return y, int64 (B, 1, H, W)."""
        return grey_levels(x_uint8, self.levels)

    def terms(self, encoding: Tensor, x_uint8: Tensor, y_uint8: Tensor | None, noise: Noise) -> Terms:
        """Return -log p(y) as the KL, and log p(x | y)."""
        kl = -self.log_prob_grey(encoding, noise["grey_dropout"]).sum((1, 2))
        pixels = self.log_prob_colours(x_uint8, encoding, noise["colour_dropout"])  # (B, H, W)
        return Terms(kl, pixels.sum((1, 2)), None, kl.sum(), pixels.detach())

    def log_prob_grey(self, grey: Tensor, dropout: list[Tensor] | None = None) -> Tensor:
        """Return log p(y_i | y_<i) of every pixel, nats: (B, 1, H, W) -> (B, H, W)."""
        logits = self.grey(self._unit(grey).expand(-1, 3, -1, -1), None, dropout)
        return self._for_likelihood(logits).log_softmax(1).gather(1, grey).squeeze(1)

    def log_prob_colours(self, x_uint8: Tensor, grey: Tensor, dropout: list[Tensor] | None = None) -> Tensor:
        """Return log p(x_i | x_<i, y) of every pixel, nats: (B, 3, H, W) and (B, 1, H, W) -> (B, H, W)."""
        logits = self.colour(scale_to_unit(x_uint8, self.colour.out.gain.dtype), self._unit(grey), dropout)
        return mixture_log_prob(self._for_likelihood(logits), x_uint8)

    def grey_law(self, temperature: float) -> PixelLaw:
        """Return the law of a pixel of y, which divides the logits by the temperature."""

        def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
            gumbel = torch.log(-torch.log(uniforms))  # the argmax of logits - log(-log u) has the law of the softmax
            level = torch.argmax(torch.add(logits, gumbel, alpha=-temperature), dim=1, keepdim=True)
            return self._unit(level).expand(-1, 3)

        return PixelLaw(self.levels, draw)

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Initialise both networks from data."""
        y = self._unit(self.encode(x_uint8))
        self.grey.initialise(y.expand(-1, 3, -1, -1))
        self.colour.initialise(scale_to_unit(x_uint8, y.dtype), y)

    def reconstruct(self, images: NDArray[np.uint8] | Tensor, seed: int = 0) -> Tensor:
        """Return y, uint8 (N, 3, H, W) with three equal channels; there is no noise, so the seed does nothing."""
        return self._shown(self.encode(self.check_images(images)))

    @torch.inference_mode()
    def sample(self, count: int, *, seed: int, first: int = 0, options: Sample | None = None, label: str | None = None) -> Tensor:
        """Draw y pixel by pixel, then x pixel by pixel given y: uint8 (count, 3, H, W)."""
        shown = self._draw_grey(count, seed, first, options, label)
        return self._draw_colours(shown, seed, first, PIXELS_GIVEN_PRIOR, options, label)

    @torch.inference_mode()
    def figure_images(self, x_uint8: Tensor, *, first: int, options: Sample, label: str | None = None) -> dict[str, Tensor]:
        """Make "original"; "reconstruction", its y, and "prior", a y that is drawn; and "..._sample", the colours drawn given these."""
        seed = options.seed
        true, drawn = self._shown(self.encode(x_uint8)), self._draw_grey(len(x_uint8), seed, first, options, label)
        return {
            "original": x_uint8,
            "reconstruction": true,
            "reconstruction_sample": self._draw_colours(true, seed, first, PIXELS_GIVEN_POSTERIOR, options, label),
            "prior": drawn,
            "prior_sample": self._draw_colours(drawn, seed, first, PIXELS_GIVEN_PRIOR, options, label),
        }

    def _unit(self, grey: Tensor) -> Tensor:
        return scale_to_unit(grey_value(grey, self.levels), self.colour.out.gain.dtype)

    def _shown(self, grey: Tensor) -> Tensor:
        return grey_value(grey, self.levels).repeat(1, 3, 1, 1)

    def _draw_grey(self, count: int, seed: int, first: int, options: Sample | None, label: str | None) -> Tensor:
        """Return a y that is drawn, as an image, uint8 (count, 3, H, W)."""
        shape, law = (self.image_size, self.image_size), self.grey_law(options.temperature if options else 1.0)
        label = label and f"{label} grey"
        return sample(self.grey, batch=count, shape=shape, seed=seed, first=first, stream=PRIOR, law=law, label=label)

    def _draw_colours(self, shown: Tensor, seed: int, first: int, stream: int, options: Sample | None, label: str | None) -> Tensor:
        """Return x drawn given y, which is shown as an image (B, 3, H, W): uint8 (B, 3, H, W)."""
        features, shape = scale_to_unit(shown[:, :1], self.colour.out.gain.dtype), (self.image_size, self.image_size)
        label = label and f"{label} colours"
        return sample(
            self.colour, features, batch=len(shown), shape=shape, seed=seed, first=first, stream=stream, options=options, label=label
        )
