"""The convolutions of PixelCNN++ and of its feature stream, from their sizes alone, without torch."""

from __future__ import annotations

from collections.abc import Iterator

from agave.config_networks import PixelCNNppModel
from agave.planning.layer_costs import Convolution


def pixelcnn_pp(options: PixelCNNppModel, image_size: int, outputs: int | None = None) -> Iterator[Convolution]:
    """Yield the convolutions of PixelCNN++ without its feature stream; `outputs` a pixel, None: those of the mixture."""
    f, finest = options.filters, image_size**2
    for taps in (6, 3, 2):
        yield Convolution(4, f, taps, finest, finest)
    for places, down in gated_blocks(options, image_size):
        for taps, skip in ((6, f if down else 0), (4, 2 * f if down else f)):  # u, ul
            yield Convolution(2 * f, f, taps, places, places)
            if skip:
                yield Convolution(2 * skip, f, 1, places, places)
            yield Convolution(2 * f, 2 * f, taps, places, places)
    for coarse in coarse_grids(options, image_size):
        for taps in (6, 4):  # u, ul
            yield Convolution(f, f, taps, coarse, 4 * coarse)  # to the coarse grid
            yield Convolution(f, f, taps, coarse, coarse)  # and back, transposed
    yield Convolution(f, outputs or 10 * options.mixtures, 1, finest, finest)


def feature_stream(options: PixelCNNppModel, image_size: int, feature_channels: int = 3) -> Iterator[Convolution]:
    """Yield the convolutions that condition PixelCNN++ on f(z): the stream and its injections into both streams of every block."""
    f, c, finest = options.filters, options.stream_channels, image_size**2
    yield Convolution(feature_channels, c, 9, finest, finest)
    for places, _ in gated_blocks(options, image_size):
        yield Convolution(c, c, 9, places, places)
        yield Convolution(c, 2 * f, 1, places, places)
        yield Convolution(c, 2 * f, 1, places, places)
    for coarse in coarse_grids(options, image_size):
        yield Convolution(c, c, 9, coarse, 4 * coarse)
        yield Convolution(c, c, 9, coarse, coarse)


def gated_blocks(options: PixelCNNppModel, image_size: int) -> Iterator[tuple[int, bool]]:
    """Yield the grid points of every gated block, and whether it is in the down pass, where it has one more skip input."""
    for s in range(options.resolutions):
        places = (image_size >> s) ** 2
        coarsest = s == options.resolutions - 1
        yield from [(places, False)] * options.resnets
        yield from [(places, True)] * (options.resnets + (0 if coarsest else 1))


def coarse_grids(options: PixelCNNppModel, image_size: int) -> list[int]:
    """Return the grid points of all grids but the finest."""
    return [(image_size >> s) ** 2 for s in range(1, options.resolutions)]


def pixelcnn_pp_values(options: PixelCNNppModel, image_size: int, *, stream: bool) -> int:
    """Estimate the numbers that a forward pass without gradients holds at once: skip connections, one block, and the feature stream."""
    blocks = list(gated_blocks(options, image_size))
    skips = image_size**2 + sum(coarse_grids(options, image_size)) + sum(places for places, down in blocks if not down)
    values = 2 * options.filters * skips + 10 * options.filters * image_size**2
    return values + (options.stream_channels * sum(places for places, _ in blocks) if stream else 0)


def horizontal_steps(options: PixelCNNppModel, image_size: int) -> int:
    """Count gated blocks of the horizontal stream that the cached sampler computes one after another for an image."""
    return sum(places for places, _ in gated_blocks(options, image_size))
