"""The energy distance of two samples of images, with an interval by the bootstrap.

The energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| is 0 if and only if X and Y have the same distribution. It is given as a part of
2 E|X - Y|, the energy coefficient, from 0 (the same distribution) to 1.

Source: Székely & Rizzo (2013), Energy statistics: A class of statistics based on distances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agave.bootstrap import drawn_weights, intervals

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Distances:
    """The Euclidean distances within and between two samples.

    Attributes:
        across: (S, N, M): of each of N points of the first sample, one of S sets of them, from each of M points of the second.
        first: (S, N, N): within each set of the first sample.
        second: (M, M): within the second sample.
    """

    across: Values
    first: Values
    second: Values


def distances(first: ArrayLike, second: ArrayLike) -> Distances:
    """Compute all distances.

    Args:
        first: (S, N, k): S sets of N points, for example of S training seeds.
        second: (M, k).

    Returns:
        The distances, in the unit of the points.
    """
    from scipy.spatial.distance import cdist

    sets, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return Distances(np.stack([cdist(one, other) for one in sets]), np.stack([cdist(one, one) for one in sets]), cdist(other, other))


def coefficient(found: Distances, sets: Values, first: Values, second: Values) -> Values:
    """Return the energy coefficient of weighted samples, for D weightings at once.

    A mean over pairs within a sample is over pairs of different points, which makes the energy distance unbiased: that of two samples
    of one distribution is 0 in the mean, and can be negative.

    Args:
        found: the distances.
        sets: weights of the sets (D, S).
        first: weights of the points of a set (D, N), the same for all sets.
        second: weights of the points of the second sample (D, M).

    Returns:
        (D,)
    """
    across = sum(sets[:, index] * _mean(one, first, second) for index, one in enumerate(found.across))
    within = sum(sets[:, index] * _mean(one, first, first) / _different(first) for index, one in enumerate(found.first))
    within = within + _mean(found.second, second, second) / _different(second)
    return np.divide(2 * across - within, 2 * across, out=np.zeros(len(sets)), where=across > 0)


def energy_bootstrap(
    found: Sequence[Distances], statistic: Callable[[Values], Values], confidence: Sequence[float], seed: int = 0
) -> tuple[Values, list[tuple[Values, Values]]]:
    """Compute a statistic of the energy coefficients of C first samples from one second sample, and its intervals.

    Both samples and the sets are drawn again, as in `agave.bootstrap.crossed_bootstrap`: the same draws for all C.

    Args:
        found: distances of each of the C first samples; all of the same shape.
        statistic: coefficients (..., C) -> (..., comparisons).
        confidence: confidence level of each interval.
        seed: seed of the draws.

    Returns:
        The statistic (comparisons,), and for each confidence the lower and upper ends (comparisons,).
    """
    sizes = found[0].across.shape  # (S, N, M)
    even = [np.full((1, size), 1 / size) for size in sizes]
    generator = np.random.default_rng(seed)
    drawn = [drawn_weights(generator, size) for size in sizes]
    value, draws = (statistic(np.stack([coefficient(one, *weights) for one in found], axis=-1)) for weights in (even, drawn))
    return value[0], intervals(draws, confidence)


def _mean(distance: Values, first: Values, second: Values) -> Values:
    """Return the weighted means of distances (N, M) over pairs: (D,)."""
    mean: Values = ((first @ distance) * second).sum(-1)
    return mean


def _different(weights: Values) -> Values:
    """Return the weight of all pairs of different points: (D,)."""
    different: Values = 1 - np.square(weights).sum(-1)
    return np.maximum(different, np.finfo(np.float64).tiny)
