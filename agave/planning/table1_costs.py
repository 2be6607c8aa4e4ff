"""The cost of the further systems of Table 1, from their sizes alone, without torch; network_costs.py has the paper's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agave.config import Params
from agave.planning.layer_costs import Convolution, Numbers
from agave.planning.pixelcnn_pp_costs import LIKELIHOOD_OF_X, feature_stream, pixelcnn_pp, pixelcnn_pp_values


@dataclass(frozen=True)
class SystemCost:
    """What a system costs.

    Attributes:
        layers: yields its layers for the parameters of a preset.
        likelihood: number of values that a training step keeps for the likelihood of an image.
        passes: number of forward passes, one after another, with which images are drawn, in units of `layers`.
        kept: number of further values that a training step keeps for an image, besides those that convolutions read.
        working: number of values that a forward pass without gradients holds at once for an image, but for the likelihood;
            None: what the widest layer reads, makes and adds to.
    """

    layers: Callable[[Params], Iterator[Convolution | Numbers]]
    likelihood: Callable[[Params], int]
    passes: Callable[[Params], float]
    kept: Callable[[Params], int] = lambda params: 0
    working: Callable[[Params], int] | None = None

    def values(self, params: Params) -> int:
        """Return the number of values of `working`."""
        return self.working(params) if self.working else 3 * max(layer.inputs * layer.reads for layer in self.layers(params))


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


def aux_pixelcnn_values(params: Params) -> int:
    """Return the numbers that the larger of the two networks holds at once; they run one after the other."""
    sizes, image_size = params.model.pixelcnn_pp, params.prepare.image_size
    grey = sizes.model_copy(update={"filters": params.table1.aux_pixelcnn.grey_filters})
    return max(pixelcnn_pp_values(grey, image_size, stream=False), pixelcnn_pp_values(sizes, image_size, stream=True))


def conv_draw(params: Params) -> Iterator[Convolution | Numbers]:
    """Yield the first states, then the convolutions of every step; all steps share their weights."""
    sizes, fine = params.table1.conv_draw, params.prepare.image_size**2
    h, z, taps, coarse = sizes.hidden, sizes.latent, sizes.kernel**2, fine // 4
    yield Numbers(4 * h + 6)
    for step in range(sizes.steps):
        for inputs in (2 * h, z + h):  # encoder and decoder: what they read of image and canvas, and their recurrence
            yield Convolution(6, 4 * h, taps, coarse, fine, shared=step > 0)
            yield Convolution(inputs, 4 * h, taps, coarse, coarse, per_output=1, shared=step > 0)
        for outputs in (z, z, 12):  # posterior, prior, and what is added to the canvas
            yield Convolution(h, outputs, taps, coarse, coarse, shared=step > 0)  # means
            yield Convolution(h, outputs, taps, coarse, coarse, shared=step > 0)  # log-deviations


def conv_draw_kept(params: Params) -> int:
    """Return the numbers kept for the gates and memories of both LSTMs and for the KL, in every step."""
    sizes = params.table1.conv_draw
    return sizes.steps * (8 * sizes.hidden + 12 * sizes.latent) * params.prepare.image_size**2 // 4


def conv_draw_values(params: Params) -> int:
    """Return the numbers that one step holds at once: states, gates and image."""
    return (16 * params.table1.conv_draw.hidden // 4 + 24) * params.prepare.image_size**2


COSTS: dict[str, SystemCost] = {
    "aux_pixelcnn": SystemCost(aux_pixelcnn, aux_pixelcnn_likelihood, lambda params: 2.0, working=aux_pixelcnn_values),
    "conv_draw": SystemCost(
        conv_draw, lambda params: 12 * params.prepare.image_size**2, lambda params: 2.0, conv_draw_kept, conv_draw_values
    ),
}
"""One entry a system, by its name in `agave.models.REGISTRY`."""
