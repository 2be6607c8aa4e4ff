"""The conditional distribution of the pixels, p(x) or p(x | f(z)), of each system that has a coder."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.codec.entropy import Floats
from agave.codec.pixels import Network
from agave.errors import UserError
from agave.models.agave import AGAVE
from agave.models.interface import LikelihoodModel, scale_to_unit
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.models.pixelcnn_pp_alone import PixelCNNppAlone
from agave.models.vae_iaf import VAEIAF
from agave.models.vae_iaf_alone import VAEIAFAlone
from agave.sampling.cached_pixelcnn_pp import CachedPixelCNNpp

_IMAGES_AT_ONCE = 8  # in a forward pass


@runtime_checkable
class Conditional(Protocol):
    """A distribution of pixels, given f(z) where there are latent variables."""

    def logits(self, x_uint8: Tensor, mean: Tensor | None) -> Floats:
        """Return the logits (B, 10 K, H, W) of all pixels of known images, in one pass.

        Args:
            x_uint8: (B, 3, H, W).
            mean: f(z), (B, 3, r, r); None without latent variables.
        """

    def network(self, count: int, mean: Tensor | None) -> Network:
        """Return a network that computes the same logits pixel by pixel, for `count` images."""


class PixelCNNConditional:
    """A PixelCNN++.

    Args:
        model: the system that it belongs to.
        network: the network, in evaluation mode.
    """

    def __init__(self, model: PixelCNNppAlone | AGAVE, network: PixelCNNpp) -> None:
        self._model, self._network = model, network

    def logits(self, x_uint8: Tensor, mean: Tensor | None) -> Floats:
        """Return the logits of all pixels."""
        x, features = scale_to_unit(x_uint8, torch.float64), self._features(mean)
        parts = range(0, len(x), _IMAGES_AT_ONCE)
        found = [self._network(*(None if one is None else one[i : i + _IMAGES_AT_ONCE] for one in (x, features))) for i in parts]
        return _array(torch.cat(found))

    def network(self, count: int, mean: Tensor | None) -> Network:
        """Return the cached network."""
        return _Cached(CachedPixelCNNpp(self._network, count, self._model.image_size, self._model.image_size, self._features(mean)))

    def _features(self, mean: Tensor | None) -> Tensor | None:
        return self._model.features(mean) if mean is not None and isinstance(self._model, AGAVE) else None


class _Cached:
    """`CachedPixelCNNpp` with arrays."""

    def __init__(self, network: CachedPixelCNNpp) -> None:
        self._network = network
        self.start_row, self.end_row = network.start_row, network.end_row

    def logits(self, column: int) -> Floats:
        return _array(self._network.logits(column))

    def write(self, column: int, pixel: NDArray[np.uint8]) -> None:
        self._network.write(column, scale_to_unit(torch.from_numpy(pixel), torch.float64))


class LogisticConditional:
    """Independent discretized logistics around f(z), each a mixture of one component without coefficients.

    Args:
        model: the VAE alone, with 256 colour levels at the size of x.
    """

    def __init__(self, model: VAEIAFAlone) -> None:
        self._log_scale = model.vae.log_scale

    def logits(self, x_uint8: Tensor, mean: Tensor | None) -> Floats:
        """Return the logits of all pixels, which do not depend on these."""
        return self._of(mean)

    def network(self, count: int, mean: Tensor | None) -> Network:
        """Return the logits of all pixels, one after the other."""
        return _Fixed(self._of(mean))

    def _of(self, mean: Tensor | None) -> Floats:
        assert mean is not None, "the VAE has latent variables"
        batch, _, height, width = mean.shape
        logits = mean.new_zeros(batch, 10, height, width)
        parameters = logits[:, 1:].view(
            batch, 3, 3, height, width
        )  # (B, colour, [mean, log-scale, coefficient], H, W), from edge units to [-1, 1]
        parameters[:, :, 0] = (2.0 * mean - 256.0) / 255.0
        parameters[:, :, 1] = self._log_scale + math.log(2.0 / 255.0)
        return _array(logits)


class _Fixed:
    """Logits (B, 10, H, W) that are known beforehand."""

    def __init__(self, logits: Floats) -> None:
        self._logits, self._row = logits, 0

    def start_row(self, row: int) -> None:
        self._row = row

    def logits(self, column: int) -> Floats:
        return self._logits[:, :, self._row, column]

    def write(self, column: int, pixel: NDArray[np.uint8]) -> None:
        """Do nothing, because no pixel depends on another."""

    def end_row(self) -> None:
        """Do nothing."""


def _array(tensor: Tensor) -> Floats:
    found: Floats = tensor.cpu().numpy()
    return found


SYSTEMS_WITH_CODER = ("pixelcnn_pp", "agave", "vae_iaf")
"""Names of the systems that have a coder; the place of a system here is its kind in the file format."""


def parts_of(model: LikelihoodModel) -> tuple[Conditional, VAEIAF | None]:
    """Return the distribution of the pixels, and the network of the latent variables where there are any.

    Raises:
        UserError: the system has no coder, or the model is no distribution of images of 256 levels.
    """
    if isinstance(model, PixelCNNppAlone):
        return PixelCNNConditional(model, model.pixelcnn_pp), None
    if isinstance(model, AGAVE):
        return PixelCNNConditional(model, model.pixelcnn_pp), model.vae
    if isinstance(model, VAEIAFAlone):
        if not model.options.likelihood.tails:
            raise UserError(
                "the VAE: with model.likelihood.tails false its probabilities do not sum to one, as those of a code do; accepted: true"
            )
        if (model.resolution, model.levels) != (model.image_size, 256):
            raise UserError(
                f"the VAE: it models images of {model.resolution} pixels and {model.levels} levels; "
                f"accepted for a lossless code: {model.image_size} pixels and 256 levels"
            )
        return LogisticConditional(model), model.vae
    raise UserError(f"the system {model.system} has no coder; accepted: a model of {', '.join(SYSTEMS_WITH_CODER)}")
