"""The cost of the further systems of Table 1, from their sizes alone, without torch; network_costs.py has the paper's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from agave.config import Params
from agave.config_checks import whitening_bytes
from agave.config_networks import WindowDecoder
from agave.planning.layer_costs import LIKELIHOOD_OF_X, Convolution, Numbers
from agave.planning.pixelcnn_pp_costs import feature_stream, pixelcnn_pp, pixelcnn_pp_values


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
        held: number of values that an evaluation in float64 holds at once for the likelihood, for each that a training step keeps.
        fixed: bytes that a job holds whatever the number of images, besides trained weights and their states.
    """

    layers: Callable[[Params], Iterator[Convolution | Numbers]]
    likelihood: Callable[[Params], int]
    passes: Callable[[Params], float]
    kept: Callable[[Params], int] = lambda params: 0
    working: Callable[[Params], int] | None = None
    held: float = 2.0
    fixed: Callable[[Params], int] = lambda params: 0

    def values(self, params: Params) -> int:
        """Return the number of values of `working`."""
        return self.working(params) if self.working else 3 * max(layer.inputs * layer.reads for layer in self.layers(params))


# The systems that predict each sub-pixel by a softmax over 256 values.

FIRST_KERNEL = 7
LOGITS = 3 * 256
LSTM_KEEPS = 9  # values a feature map and pixel: two states, four gates, two cells, the tangent of the cell


def masked_pixelcnn(params: Params) -> Iterator[Convolution]:
    """Yield the convolutions of PixelCNN."""
    sizes, places = params.table1.masked_pixelcnn, params.prepare.image_size**2
    h = sizes.channels
    yield Convolution(3, 2 * h, FIRST_KERNEL**2, places, places)
    for _ in range(sizes.blocks):
        for inputs, outputs, taps in ((2 * h, h, 1), (h, h, 9), (h, 2 * h, 1)):
            yield Convolution(inputs, outputs, taps, places, places)
    yield from _softmax_head(places, 2 * h, sizes.head, sizes.head)


def gated_pixelcnn(params: Params) -> Iterator[Convolution]:
    """Yield the convolutions of gated PixelCNN."""
    sizes, places = params.table1.gated_pixelcnn, params.prepare.image_size**2
    p, first = sizes.channels, FIRST_KERNEL // 2
    layers = [(3, first * FIRST_KERNEL, first + 1)]  # inputs, and taps of the vertical and the horizontal convolution
    layers += [(p, (sizes.kernel // 2 + 1) * sizes.kernel, sizes.kernel // 2 + 1)] * (sizes.layers - 1)
    for inputs, vertical, horizontal in layers:
        yield Convolution(inputs, 2 * p, vertical, places, places)
        yield Convolution(2 * p, 2 * p, 1, places, 2 * places, per_output=1)  # kept besides: both factors of the gate
        yield Convolution(inputs, 2 * p, horizontal, places, places)
        yield Convolution(p, p, 1, places, 3 * places)  # kept besides: both factors of the gate
    yield from _softmax_head(places, p, sizes.head)


def pixelrnn(params: Params) -> Iterator[Convolution | Numbers]:
    """Yield the layers of PixelRNN."""
    sizes, size = params.table1.pixelrnn, params.prepare.image_size
    h, places = sizes.channels, size**2
    yield Convolution(3, 2 * h, FIRST_KERNEL**2, places, places)
    for _ in range(sizes.layers):
        yield Convolution(2 * h, 8 * h, 1, places, places)
        for _ in ("from the left", "from the right"):
            yield Convolution(h, 4 * h, 2, places, LSTM_KEEPS * places, per_output=0)
            yield Numbers(2 * h * size)  # initial states
        yield Convolution(h, 2 * h, 1, places, places)
    yield from _softmax_head(places, 2 * h, sizes.head, sizes.head)


def _softmax_head(places: int, *widths: int) -> Iterator[Convolution]:
    for inputs, outputs in pairwise((*widths, LOGITS)):
        yield Convolution(inputs, outputs, 1, places, places)


def _logits(params: Params) -> int:
    return LOGITS * params.prepare.image_size**2


def _masked_passes(params: Params) -> float:
    """Return the cost of drawing: three passes a pixel over the window that it depends on, the head at the pixel alone."""
    sizes, size = params.table1.masked_pixelcnn, params.prepare.image_size
    *body, first, second, logits = (layer.multiply_adds for layer in masked_pixelcnn(params))
    reach = FIRST_KERNEL // 2 + sizes.blocks
    window, head = min(reach + 1, size) * min(2 * reach + 1, size), first + second + logits
    return 3 * (window * sum(body) + head) / (sum(body) + head)


def _gated_passes(params: Params) -> float:
    """Return the cost of drawing: the vertical stack once a row, and three passes a pixel over a piece of its row."""
    sizes, size = params.table1.gated_pixelcnn, params.prepare.image_size
    *body, hidden, logits = (layer.multiply_adds for layer in gated_pixelcnn(params))
    seen = min(FIRST_KERNEL // 2 + (sizes.layers - 1) * (sizes.kernel // 2) + 1, size)
    vertical = sum(body[0::4]) + sum(body[1::4])
    horizontal, head = sum(body) - vertical, hidden + logits
    return (seen * vertical + 3 * (seen * horizontal + head)) / (vertical + horizontal + head)


def nice(params: Params) -> Iterator[Convolution | Numbers]:
    """Yield the layers of NICE: the whitening, which is not trained, four couplings and the scales."""
    sizes, values = params.table1.nice, _values(params)
    yield Numbers(0, inputs=values, reads=1, multiply_adds=values**2)
    widths = [values // 2] + [sizes.hidden] * sizes.hidden_layers + [values // 2]
    for _ in range(4):
        for inputs, outputs in pairwise(widths):
            yield Convolution(inputs, outputs, 1, 1, 1, per_output=1)
    yield Numbers(values)


def real_nvp(params: Params) -> Iterator[Convolution | Numbers]:
    """Yield the layers of Real NVP: at each scale three couplings of pixels and three of channels, at the last one four of pixels."""
    sizes, size = params.table1.real_nvp, params.prepare.image_size
    for scale in range(sizes.scales):
        image, width, places, last = 3 << scale, sizes.channels << scale, (size >> scale) ** 2, scale == sizes.scales - 1
        for _ in range(4 if last else 3):
            yield from _affine_coupling(2 * image + 1, image, width, sizes.blocks, places)
        for _ in range(0 if last else 3):
            yield from _affine_coupling(4 * image, 2 * image, 2 * width, sizes.blocks, places // 4)


def _affine_coupling(inputs: int, changed: int, width: int, blocks: int, places: int) -> Iterator[Convolution | Numbers]:
    yield Convolution(inputs, width, 9, places, places)
    for taps in [1] + [9, 9, 1] * blocks:
        yield Convolution(width, width, taps, places, places)
    yield Convolution(width, 2 * changed, 1, places, places)
    yield Numbers(1 + 2 * changed)


def _values(params: Params) -> int:
    return 3 * params.prepare.image_size**2


def aux_pixelcnn(params: Params) -> Iterator[Convolution]:
    """Yield the convolutions of the network of the grey image, then those of the network of the colours."""
    own, image_size = params.table1.aux_pixelcnn, params.prepare.image_size
    grey, colour = own.networks(params.model.pixelcnn_pp)
    yield from pixelcnn_pp(grey, image_size, own.levels)
    yield from pixelcnn_pp(colour, image_size)
    yield from feature_stream(colour, image_size, feature_channels=1)


def aux_pixelcnn_likelihood(params: Params) -> int:
    """Return the numbers kept for the likelihoods of the grey image and of the colours."""
    levels, mixtures = params.table1.aux_pixelcnn.levels, params.model.pixelcnn_pp.mixtures
    return (2 * levels + LIKELIHOOD_OF_X * mixtures) * params.prepare.image_size**2


def aux_pixelcnn_values(params: Params) -> int:
    """Return the numbers that the larger of the two networks holds at once; they run one after the other."""
    grey, colour = params.table1.aux_pixelcnn.networks(params.model.pixelcnn_pp)
    size = params.prepare.image_size
    return max(pixelcnn_pp_values(grey, size, stream=False), pixelcnn_pp_values(colour, size, stream=True))


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


# The systems with a window-limited PixelCNN: lossy_vae and matnet.

WINDOW = 5 * 7
"""Pixels of the window on which the logits of a pixel are computed when images are drawn."""


def _convolution(inputs: int, outputs: int, grid: int, taps: int = 9, stride: int = 1) -> Convolution:
    return Convolution(inputs, outputs, taps, grid**2, (stride * grid) ** 2)


def _window_pixelcnn(options: WindowDecoder, features: int, size: int) -> Iterator[Convolution]:
    f = options.filters
    for earlier in range(options.sets):
        yield from (_convolution(4, f, size, taps) for taps in (6, 3, 2))
        for taps, skips in 2 * [(6, earlier), (2, 1 + earlier)]:  # two blocks of u and ul
            yield _convolution(2 * f, f, size, taps)
            if skips:
                yield Convolution(2 * f * skips, f, 1, size**2, reads=size**2 // skips)  # one state that no other reads yet
            yield _convolution(2 * f, 2 * f, size, 1)
            yield Convolution(features, 2 * f, 1, size**2, reads=0)  # all blocks read the same features
    yield _convolution(options.sets * f, 10 * options.mixtures, size, 1)


def _residual_blocks(number: int, channels: int, grid: int) -> list[Convolution]:
    return [_convolution(channels, channels, grid)] * 2 * number


def _lossy_vae_flow(params: Params) -> list[Convolution]:
    sizes, grid = params.table1.lossy_vae, params.prepare.image_size // 4
    z, h = sizes.latent, sizes.flow_channels
    return [_convolution(inputs, outputs, grid) for inputs, outputs in ((z, h), (h, h), (h, z))]


def _lossy_vae(params: Params) -> Iterator[Convolution]:
    sizes, size = params.table1.lossy_vae, params.prepare.image_size
    (wide, deep), half, quarter = sizes.channels, size // 2, size // 4
    yield _convolution(3, wide, size)
    yield _convolution(wide, deep, half, stride=2)
    yield _convolution(deep, deep, quarter, stride=2)
    yield _convolution(deep, 2 * sizes.latent, quarter, 1)
    yield from sizes.flows * _lossy_vae_flow(params)
    yield _convolution(sizes.latent, deep, quarter, 1)
    yield _convolution(deep, deep, quarter)  # transposed, as the next one
    yield _convolution(deep, wide, half)
    for number, channels, grid in ((2, wide, size), (2, deep, half), (3, deep, quarter)):
        yield from 2 * _residual_blocks(number, channels, grid)  # of encoder and decoder
    yield from _window_pixelcnn(sizes.decoder, wide, size)


def _lossy_vae_passes(params: Params) -> float:
    """Count the passes of a draw from the prior, whose latent variables take as many iterations as there are, and of a reconstruction."""
    sizes, size = params.table1.lossy_vae, params.prepare.image_size
    solved = sizes.flows * sizes.latent * (size // 4) ** 2 * _multiply_adds(_lossy_vae_flow(params))
    pixels = WINDOW * _multiply_adds(_window_pixelcnn(sizes.decoder, sizes.channels[0], size))
    return 2 + (solved + 2 * pixels) / _multiply_adds(_lossy_vae(params))


def _matnet(params: Params) -> Iterator[Convolution]:
    sizes, size = params.table1.matnet, params.prepare.image_size
    grids = [size // sizes.stride >> level for level in range(len(sizes.channels))]
    finest, z, coarsest = sizes.channels[0], sizes.latent, sizes.channels[-1]
    yield _convolution(3, finest // 2, grids[0], stride=sizes.stride)
    yield _convolution(finest // 2, finest, grids[0])
    for c, number, grid in zip(sizes.channels, sizes.modules, grids, strict=True):
        for inputs, outputs in ((c, c), (c, c), (3 * c, c), (c, c), (c, 2 * z), (c, c), (c, 2 * z), (z + c, c), (c, c)):
            yield from number * [_convolution(inputs, outputs, grid)]
    for fine, coarse, grid in zip(sizes.channels[:-1], sizes.channels[1:], grids[1:], strict=True):
        yield _convolution(fine, coarse, grid, stride=2)
        yield from 2 * [_convolution(coarse, fine, grid)]  # transposed, of the top-down pass and the merge path
    values = grids[-1] ** 2
    yield Convolution(coarsest, sizes.top_hidden, values, 1, values)
    for inputs, outputs in ((sizes.top_hidden, 2 * sizes.top), (sizes.top, sizes.top_hidden), (sizes.top_hidden, coarsest * values)):
        yield _convolution(inputs, outputs, 1, 1)
    yield _convolution(finest, finest, grids[0])
    yield from _window_pixelcnn(sizes.decoder, finest, size)


def _matnet_passes(params: Params) -> float:
    sizes, size = params.table1.matnet, params.prepare.image_size
    pixels = WINDOW * _multiply_adds(_window_pixelcnn(sizes.decoder, sizes.channels[0], size))
    return 2 + 2 * pixels / _multiply_adds(_matnet(params))


def _multiply_adds(layers: Iterable[Convolution]) -> int:
    return sum(layer.multiply_adds for layer in layers)


def _mixture_values(decoder: WindowDecoder, params: Params) -> int:
    return LIKELIHOOD_OF_X * decoder.mixtures * params.prepare.image_size**2


COSTS: dict[str, SystemCost] = {
    "masked_pixelcnn": SystemCost(masked_pixelcnn, _logits, _masked_passes, held=6.0),
    "gated_pixelcnn": SystemCost(gated_pixelcnn, _logits, _gated_passes, held=6.0),
    "pixelrnn": SystemCost(pixelrnn, _logits, lambda params: 5.0, held=6.0),
    "nice": SystemCost(
        nice, lambda params: 4 * _values(params), lambda params: 1, fixed=lambda params: whitening_bytes(params.prepare.image_size)
    ),
    "real_nvp": SystemCost(real_nvp, lambda params: 10 * _values(params), lambda params: 1),
    "aux_pixelcnn": SystemCost(aux_pixelcnn, aux_pixelcnn_likelihood, lambda params: 2.0, working=aux_pixelcnn_values),
    "conv_draw": SystemCost(
        conv_draw, lambda params: 12 * params.prepare.image_size**2, lambda params: 2.0, conv_draw_kept, conv_draw_values
    ),
    "lossy_vae": SystemCost(_lossy_vae, lambda params: _mixture_values(params.table1.lossy_vae.decoder, params), _lossy_vae_passes),
    "matnet": SystemCost(_matnet, lambda params: _mixture_values(params.table1.matnet.decoder, params), _matnet_passes),
}
"""One entry a system, by its name in `agave.models.REGISTRY`."""
