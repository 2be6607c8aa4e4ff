"""The cost of the further systems of Table 1, from their sizes alone, without torch; network_costs.py has the paper's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agave.config import Params
from agave.config_networks import WindowDecoder
from agave.planning.layer_costs import LIKELIHOOD_OF_X, Convolution, Numbers


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
    "lossy_vae": SystemCost(_lossy_vae, lambda params: _mixture_values(params.table1.lossy_vae.decoder, params), _lossy_vae_passes),
    "matnet": SystemCost(_matnet, lambda params: _mixture_values(params.table1.matnet.decoder, params), _matnet_passes),
}
"""One entry a system, by its name in `agave.models.REGISTRY`."""
