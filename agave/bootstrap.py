"""Intervals for functions of means over test images and training seeds, by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

DRAWS = 4000
_CHUNK = 500  # draws at once: 40 MB of weights for 10,000 images


def crossed_bootstrap(
    samples: Values, statistic: Callable[[Values], Values], confidence: Sequence[float], seed: int = 0
) -> tuple[Values, list[tuple[Values, Values]]]:
    """Compute a statistic of means over images and seeds, and its intervals.

    Images and training seeds are drawn with replacement, each time one fewer than there are, which makes the variance of a mean over
    few seeds unbiased. A single seed is kept. Everything that `samples` holds for an image or a seed is drawn together, so what all
    models have in common, such as the difficulty of an image, cancels in differences.

    Args:
        samples: (seeds, images, ...): what was measured, for example of each of C models (seeds, images, C).
        statistic: means (..., *samples.shape[2:]) -> (..., comparisons), for any number of leading dimensions.
        confidence: confidence level of each interval, for example 0.95.
        seed: seed of the draws.

    Returns:
        The statistic (comparisons,), and for each confidence the lower and upper ends (comparisons,). With one image and one
        seed there is nothing to draw: the ends are the statistic.

    Source: Efron & Tibshirani (1993); Rao & Wu (1988) for the number of draws.
    """
    seeds, images = samples.shape[:2]
    value = statistic(samples.mean((0, 1)))
    if seeds * images == 1:
        return value, [(value, value) for _ in confidence]
    generator = np.random.default_rng(seed)
    flat = samples.reshape(seeds, images, -1)
    by_seed = np.concatenate([np.einsum("bn,snf->bsf", weights, flat, optimize=True) for weights in _weights(generator, images)])
    of_seeds = drawn_weights(generator, seeds)
    means = np.einsum("bs,bsf->bf", of_seeds, by_seed).reshape(DRAWS, *samples.shape[2:])
    drawn = statistic(means)
    return value, intervals(drawn, confidence)


def intervals(drawn: Values, confidence: Sequence[float]) -> list[tuple[Values, Values]]:
    """Return the lower and upper ends (comparisons,) of the middle part of draws (DRAWS, comparisons), for each confidence."""
    ends = [np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0) for level in confidence]
    return [(low, high) for low, high in ends]


def drawn_weights(generator: np.random.Generator, count: int) -> Values:
    """Return the weights of the drawn images or seeds, (DRAWS, count), each row of which has the sum 1."""
    return np.concatenate(list(_weights(generator, count)))


def _weights(generator: np.random.Generator, count: int) -> Iterator[Values]:
    """Yield the weights of the drawn images or seeds, (_CHUNK, count) at a time."""
    drawn = max(1, count - 1)
    for _ in range(DRAWS // _CHUNK):
        if count == 1:
            yield np.ones((_CHUNK, 1))
        else:
            yield generator.multinomial(drawn, [1 / count] * count, size=_CHUNK) / drawn
