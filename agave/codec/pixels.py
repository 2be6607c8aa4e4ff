"""Code the pixels of images with the exact discretised conditionals of a mixture of logistics.

One mixture indicator belongs to a pixel. R is coded with the mixture weights; each weight is then multiplied by the mass that its
component gave to the value of R, and G is coded with these weights and with means that depend on R; then B in the same way. The product
of the three probabilities is that of `agave.likelihoods.mixture_log_prob`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agave.codec.entropy import Floats, Integers, Stack, exp, round_to_grid, tanh
from agave.likelihoods import LOG_SCALE_MIN

PRECISION = 24
"""Probabilities are multiples of 2^-24; each value keeps at least one. On images this costs 0.0005 % of the length."""

VALUES = 256
_SCALED = float((1 << PRECISION) - 2 * VALUES)
_BLOCK = 32  # edges 32 h + l: the odds of all 256 edges come from 8 exponentials and the powers of one
# Odds below e^-100 are zero to 24 bits and those above e^400 infinite; at the smallest scale they change by e^267 inside a block.
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -100.0, 400.0
_CHUNK = 4096  # pixels of which intervals are computed at once: their numbers fit into the cache of a CPU


@runtime_checkable
class Network(Protocol):
    """A network that computes the logits of one pixel after the other, as `agave.sampling.CachedPixelCNNpp` does."""

    def start_row(self, row: int) -> None:
        """Begin a row."""

    def logits(self, column: int) -> Floats:
        """Return the logits (B, 10 K) of a pixel of the row."""

    def write(self, column: int, pixel: NDArray[np.uint8]) -> None:
        """Set the pixel (B, 3) that the following ones see."""

    def end_row(self) -> None:
        """End the row."""


class PixelDistributions:
    """The distributions of the R, G and B of many pixels, one colour after the other.

    Ask for `tables` of all values and `observe` which values they were, or for `intervals` of known values; then the next colour is due.

    Args:
        logits: (N, 10 K) in the layout of `agave.likelihoods.split_logits`, rounded by `round_to_grid`.
    """

    def __init__(self, logits: Floats) -> None:
        pixels, channels = logits.shape
        mixtures = channels // 10
        columns = np.ascontiguousarray(logits.T)
        weights, others = columns[:mixtures], columns[mixtures:].reshape(3, 3, mixtures, pixels)
        log_scales = np.minimum(np.maximum(others[:, 1], LOG_SCALE_MIN), 80.0)
        exponentials = exp(np.concatenate((weights - weights.max(0), -log_scales.reshape(-1, pixels))))
        self._weights = exponentials[:mixtures] / _sum(exponentials[:mixtures])  # (K, N)
        self._means, self._inverse_scales = others[:, 0], exponentials[mixtures:].reshape(3, mixtures, pixels)
        self._steps = exp(self._inverse_scales * (-2.0 / 255.0))  # (3, K, N), by which the odds fall from one edge to the next
        self._coefficients = tanh(others[:, 2])  # (3, K, N): of R in the mean of G, of R in that of B, of G in that of B
        self._seen: list[Floats] = []  # (N,) each, in [-1, 1]
        self._next_colour()

    def _next_colour(self) -> None:
        colour = len(self._seen)
        self._mean, self._inverse_scale, self._step = self._means[colour], self._inverse_scales[colour], self._steps[colour]
        for other, value in enumerate(self._seen):
            self._mean = self._mean + self._coefficients[colour - 1 + other] * value

    def tables(self) -> Integers:
        """Return the first slot of every value of the colour that is due, and 2^24 at the end: (N, 257)."""
        mixtures, pixels = self._step.shape
        first_odds = self._first_odds(np.arange(VALUES // _BLOCK)[:, None])  # (K, 8, N)
        powers = np.ones((_BLOCK, mixtures, pixels))
        known, factor = 1, self._step
        while known < _BLOCK:
            np.multiply(powers[:known], factor, out=powers[known : 2 * known])
            known, factor = 2 * known, factor * factor
        self._tabulated = first_odds, powers
        total = np.zeros((VALUES // _BLOCK, _BLOCK, pixels))
        component = np.empty_like(total)
        for k in range(mixtures):
            np.multiply(first_odds[k, :, None], powers[:, k], out=component)
            component += 1.0
            np.divide(self._weights[k], component, out=component)
            total += component
        total *= _SCALED
        table = np.empty((pixels, VALUES + 1), np.int64)
        table[:, :VALUES] = np.floor(total, out=total).reshape(VALUES, pixels).T
        table[:, :VALUES] += 2 * np.arange(VALUES)
        table[:, 0], table[:, VALUES] = 0, 1 << PRECISION
        return table

    def intervals(self, values: Integers) -> tuple[Integers, Integers]:
        """Return start and frequency of the values (N,) of the colour that is due, and observe them."""
        odds = self._odds(values)
        below, above = np.floor(_sum(self._weights[:, None] / (odds + 1.0)) * _SCALED).astype(np.int64) + 2 * np.stack((values, values + 1))
        start, end = np.where(values == 0, 0, below), np.where(values == VALUES - 1, 1 << PRECISION, above)
        self._observe(values, odds)
        return start, end - start

    def observe(self, values: Integers) -> None:
        """Observe the values (N,) of the colour that is due, after `tables`."""
        first_odds, powers = self._tabulated
        blocks, places = np.divmod(np.stack((values, np.minimum(values + 1, VALUES - 1))), _BLOCK)  # the edge after the last is not used
        pixels = np.arange(len(values))
        self._observe(values, first_odds[:, blocks, pixels] * powers[places, :, pixels].transpose(2, 0, 1))

    def _observe(self, values: Integers, odds: Floats) -> None:
        first, last = values == 0, values == VALUES - 1
        above_lower, below_upper = odds[:, 0] / (1.0 + odds[:, 0]), 1.0 / (1.0 + odds[:, 1])
        mass = np.where(first, 1.0, above_lower) * np.where(last, 1.0, below_upper) * np.where(first | last, 1.0, 1.0 - self._step)
        weights = self._weights * mass
        total = _sum(weights)
        known = total > 1e-280  # otherwise no component gives the value any mass, and the weights stay as they are
        self._weights = np.where(known, weights / np.where(known, total, 1.0), self._weights)
        self._seen.append(np.asarray((values - 127.5) / 127.5))
        if len(self._seen) < 3:
            self._next_colour()

    def _odds(self, values: Integers) -> Floats:
        """Return the odds (K, 2, N) that each component lies above the lower and the upper edge of values (N,)."""
        edges = np.stack((values, values + 1))
        block, place = edges // _BLOCK, edges % _BLOCK
        factor = self._step[:, None]
        power = np.where(place & 1, factor, 1.0)
        for bit in (2, 4, 8, 16):  # in the order in which `tables` multiplies
            factor = factor * factor
            power = np.where(place & bit, power * factor, power)
        return self._first_odds(block) * power

    def _first_odds(self, blocks: Integers) -> Floats:
        """Return the odds exp((mean - edge) / scale), (K, M, N), of each component at the first edge of blocks (M, N) or (M, 1)."""
        edges = (2.0 * _BLOCK / 255.0) * blocks - 256.0 / 255.0
        exponents = (self._mean[:, None] - edges) * self._inverse_scale[:, None]
        return exp(np.minimum(np.maximum(exponents, _SMALLEST_EXPONENT), _LARGEST_EXPONENT))


def _sum(terms: Floats) -> Floats:
    """Return the sum over components (K, N) -> (N,), one after the other."""
    total = np.zeros(terms.shape[1:])
    for term in terms:
        total += term
    return total


def pixel_intervals(logits: Floats, x_uint8: NDArray[np.uint8], offset: int) -> tuple[Integers, Integers]:
    """Return where on the scale of 2^24 the values of images lie.

    Args:
        logits: (B, 10 K, H, W), of the network; rounded here.
        x_uint8: (B, 3, H, W).
        offset: place of the grid, see `round_to_grid`.

    Returns:
        Starts and frequencies, (B, 3, H, W).
    """
    batch, channels, height, width = logits.shape
    pixels = logits.transpose(0, 2, 3, 1).reshape(-1, channels)
    values = x_uint8.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.int64)
    found = np.empty((2, 3, len(pixels)), np.int64)
    for first in range(0, len(pixels), _CHUNK):
        part = slice(first, first + _CHUNK)
        distributions = PixelDistributions(round_to_grid(pixels[part], offset))
        for colour in range(3):
            found[:, colour, part] = distributions.intervals(values[colour, part])
    starts, frequencies = found.reshape(2, 3, batch, height, width).swapaxes(1, 2)
    return starts, frequencies


def code_lengths(frequencies: Integers) -> Floats:
    """Return the ideal length of each image in bits, (B,), from the frequencies (B, 3, H, W) of its values."""
    return np.asarray((PRECISION - np.log2(frequencies)).sum((1, 2, 3)))


def push_pixels(stack: Stack, starts: Integers, frequencies: Integers) -> None:
    """Push images (B, 3, H, W) so that `pop_pixels` gets them row by row, column by column, colour by colour, image by image."""
    order = (2, 3, 1, 0)
    stack.push(starts.transpose(order).ravel()[::-1].tolist(), frequencies.transpose(order).ravel()[::-1].tolist(), PRECISION)


def pop_pixels(
    stack: Stack, network: Network, shape: tuple[int, int, int], offset: int, after_row: Callable[[], object] = lambda: None
) -> NDArray[np.uint8]:
    """Pop images, whose logits a network computes from the pixels popped before.

    Args:
        stack: the stack.
        network: a network at its first row.
        shape: number, height and width of the images.
        offset: place of the grid, see `round_to_grid`.
        after_row: called after each row of pixels.

    Returns:
        (B, 3, H, W).

    Raises:
        Exhausted: the stack does not hold the images.
    """
    batch, height, width = shape
    images = np.empty((batch, 3, height, width), np.uint8)
    for row in range(height):
        network.start_row(row)
        for column in range(width):
            distributions = PixelDistributions(round_to_grid(network.logits(column), offset))
            for colour in range(3):
                values = np.array(stack.pop_tabulated(distributions.tables(), PRECISION))
                images[:, colour, row, column] = values
                distributions.observe(values)
            network.write(column, images[:, :, row, column])
        network.end_row()
        after_row()
    return images
