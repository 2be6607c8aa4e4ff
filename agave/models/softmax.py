"""What the systems have in common that predict each sub-pixel, R before G before B, by a softmax over its 256 values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agave.config import Sample
from agave.likelihoods import softmax_log_prob
from agave.models.causal_conv import CausalConv2d
from agave.models.interface import LikelihoodModel, Noise, Terms, scale_to_unit
from agave.models.layers import at_least_float32, data_dependent_initialisation, folded, full_precision
from agave.random_numbers import PIXELS, PIXELS_GIVEN_PRIOR, KeyedNumbers
from agave.sampling.sub_pixels import PixelNetwork, draw_sub_pixels


class SoftmaxHead(nn.Module):
    """The last layers: a rectifier and a 1x1 convolution with mask B for each width, and again for the 768 logits.

    Args:
        channels: number of channels of the input.
        *widths: numbers of channels in between.
    """

    def __init__(self, channels: int, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CausalConv2d(a, b, (1, 1), "B") for a, b in pairwise((channels, *widths)))
        self.logits = CausalConv2d(widths[-1], 3 * 256, (1, 1), "B", init_scale=0.1)  # starts near equal probabilities, 8 bits/dim

    def forward(self, t: Tensor) -> Tensor:
        """Return the logits of every value of every colour: (B, channels, H, W) -> (B, 768, H, W), colour-major."""
        for layer in self.layers:
            t = layer(F.relu(t))
        with full_precision(t):
            return self.logits(F.relu(at_least_float32(t)))  # type: ignore[no-any-return]


class SoftmaxModel(LikelihoodModel):
    """A network with an exact likelihood: log p(x) is the sum of the log-probabilities of all sub-pixels given those before them.

    Attributes:
        head: the last layers, which map the features of a pixel to its 768 logits.
    """

    # PAPER: The PixelCNN and PixelRNN papers do not normalise weights. All layers here but the recurrent ones are weight-normalised and
    # initialised from data, as in PixelCNN++.
    bound = "exact"
    head: SoftmaxHead

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return what the head reads: x (B, 3, H, W) in [-1, 1] -> (B, C, H, W)."""

    @abstractmethod
    def pixel_network(self, x: Tensor) -> PixelNetwork:
        """Return the network for drawing: it reads x, (B, 3, H, W) in [-1, 1], while the pixels are filled in."""

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of all values, colour-major, given the sub-pixels before: x (B, 3, H, W) in [-1, 1] -> (B, 768, H, W)."""
        x = x.contiguous(memory_format=torch.channels_last)  # all activations: a third faster on a CPU
        return self.head(self.features(x))  # type: ignore[no-any-return]

    def log_prob_subpixels(self, x_uint8: Tensor) -> Tensor:
        """Return the log-probability of every sub-pixel given those before it, nats: (B, 3, H, W) -> (B, 3, H, W)."""
        logits = self.logits(scale_to_unit(x_uint8, self._weight.dtype))
        return softmax_log_prob(self._for_likelihood(logits), x_uint8)

    def terms(self, encoding: None, x_uint8: Tensor, y_uint8: Tensor | None, noise: Noise) -> Terms:
        """Return log p(x); there is no KL."""
        zero = torch.zeros(len(x_uint8), device=x_uint8.device)
        subpixels = self.log_prob_subpixels(x_uint8)  # (B, 3, H, W)
        return Terms(zero, subpixels.sum((1, 2, 3)), None, zero.sum(), subpixels.detach().sum(1))

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Initialise the weights from data."""
        with data_dependent_initialisation(self):
            self.logits(scale_to_unit(x_uint8, self._weight.dtype))

    def sample(self, count: int, *, seed: int, first: int = 0, options: Sample | None = None, label: str | None = None) -> Tensor:
        """Draw images sub-pixel by sub-pixel, uint8 (count, 3, H, W)."""
        given = torch.zeros(count, 3, 0, self.image_size, dtype=torch.uint8)
        return self._draw(given, seed, first, PIXELS_GIVEN_PRIOR, options, label)

    def figure_images(self, x_uint8: Tensor, *, first: int, options: Sample, label: str | None = None) -> dict[str, Tensor]:
        """Make "original", "prior_sample", and "completion": all but the first rows of the originals drawn anew."""
        found = super().figure_images(x_uint8, first=first, options=options, label=label)
        given = x_uint8[:, :, : options.completion_rows]
        found["completion"] = self._draw(given, options.seed, first, PIXELS, options, label and f"{label} completion")
        return found

    @torch.inference_mode()
    def _draw(self, given: Tensor, seed: int, first: int, stream: int, options: Sample | None, label: str | None) -> Tensor:
        """Draw the rows that follow the given ones, uint8 (B, 3, h, W)."""
        batch, _, known, size = given.shape
        x = self._weight.new_zeros(batch, 3, size, size)
        x[:, :, :known] = scale_to_unit(given, x.dtype).to(x.device)
        uniforms = KeyedNumbers(seed, stream, range(first, first + batch)).uniform(0, tuple(x.shape), x)
        temperature = options.temperature if options else 1.0
        with folded(self):
            draw_sub_pixels(self.pixel_network(x), x, uniforms, known_rows=known, temperature=temperature, label=label)
        return torch.round(x * 127.5 + 127.5).to(torch.uint8)

    @property
    def _weight(self) -> Tensor:
        """Return a parameter, for dtype and device."""
        return next(self.parameters())


def window(x: Tensor, row: int, column: int, reach: int) -> tuple[Tensor, int]:
    """Cut out what a pixel can depend on.

    Args:
        x: (B, C, H, W).
        row: row of the pixel.
        column: column of the pixel.
        reach: number of rows above, and of columns to either side, that the network sees.

    Returns:
        The rows and columns of x within reach, the last row that of the pixel; the column of the pixel among them.
    """
    left = max(0, column - reach)
    return x[:, :, max(0, row - reach) : row + 1, left : column + reach + 1], column - left
