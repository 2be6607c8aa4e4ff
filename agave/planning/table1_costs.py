"""The cost of the further systems of Table 1, from their sizes alone, without torch; network_costs.py has the paper's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agave.config import Params
from agave.planning.layer_costs import Convolution, Numbers
from agave.planning.pixelcnn_pp_costs import LIKELIHOOD_OF_X, feature_stream, pixelcnn_pp


@dataclass(frozen=True)
class SystemCost:
    """What a system costs.

    Attributes:
        layers: yields its layers for the parameters of a preset.
        likelihood: number of values that a training step keeps for the likelihood of an image.
        passes: number of forward passes, one after another, with which images are drawn, in units of `layers`.
    """

    layers: Callable[[Params], Iterator[Convolution | Numbers]]
    likelihood: Callable[[Params], int]
    passes: Callable[[Params], float]


def aux_pixelcnn(params: Params) -> Iterator[Convolution]:
    """Yield the convolutions of the network of the grey image, then those of the network of the colours."""
    sizes, own, image_size = params.model.pixelcnn_pp, params.table1.aux_pixelcnn, params.prepare.image_size
    yield from pixelcnn_pp(sizes.model_copy(update={"filters": own.grey_filters}), image_size, own.levels)
    yield from pixelcnn_pp(sizes, image_size)
    yield from feature_stream(sizes, image_size, feature_channels=1)


def aux_pixelcnn_likelihood(params: Params) -> int:
    """Return the numbers kept for the likelihoods of the grey image and of the colours."""
    levels, mixtures = params.table1.aux_pixelcnn.levels, params.model.pixelcnn_pp.mixtures
    return (2 * levels + LIKELIHOOD_OF_X * mixtures) * params.prepare.image_size**2


def conv_draw(params: Params) -> Iterator[Convolution | Numbers]:
    """Yield the first states, then the convolutions of every step; all steps share their weights."""
    sizes, fine = params.table1.conv_draw, params.prepare.image_size**2
    h, z, taps, coarse = sizes.hidden, sizes.latent, sizes.kernel**2, fine // 4
    yield Numbers(4 * h + 6)
    for step in range(sizes.steps):
        for inputs in (2 * h, z + h):  # encoder and decoder: what they read of image and canvas, and their recurrence
            yield Convolution(6, 4 * h, taps, coarse, fine, shared=step > 0)
            yield Convolution(inputs, 4 * h, taps, coarse, coarse, per_output=1, shared=step > 0)
        for outputs in (2 * z, 2 * z, 24):  # posterior, prior, and what is added to the canvas
            yield Convolution(h, outputs, taps, coarse, coarse, shared=step > 0)


def conv_draw_likelihood(params: Params) -> int:
    """Return the numbers kept for the memories of both LSTMs and the KL of every step, and for the likelihood."""
    sizes, fine = params.table1.conv_draw, params.prepare.image_size**2
    return sizes.steps * (18 * sizes.hidden + 14 * sizes.latent) * fine // 4 + 12 * fine


COSTS: dict[str, SystemCost] = {
    "aux_pixelcnn": SystemCost(aux_pixelcnn, aux_pixelcnn_likelihood, lambda params: 2.0),
    "conv_draw": SystemCost(conv_draw, conv_draw_likelihood, lambda params: 2.0),
}
"""One entry a system, by its name in `agave.models.REGISTRY`."""
