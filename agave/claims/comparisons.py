"""Comparisons of measured cells, and the intervals of their values: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from agave.claims.evidence import Measured

Values = NDArray[np.float64]
Labelled = tuple[list[str], Values]

DRAWS = 4000


def _rows(n: int, pairs: Sequence[tuple[int, int]]) -> Values:
    """One row a pair (minus, plus) of n cells."""
    matrix = np.zeros((len(pairs), n))
    for row, (minus, plus) in enumerate(pairs):
        matrix[row, minus] -= 1
        matrix[row, plus] += 1
    return matrix


def _each(names: list[str]) -> Labelled:
    return names, np.eye(len(names))


def _last(names: list[str]) -> Labelled:
    return names[-1:], np.eye(len(names))[-1:]


def _between(names: list[str], pairs: Sequence[tuple[int, int]]) -> Labelled:
    return [f"{names[minus]} → {names[plus]}" for minus, plus in pairs], _rows(len(names), pairs)


def _steps(names: list[str]) -> Labelled:
    return _between(names, [(i, i + 1) for i in range(len(names) - 1)])


def _later_steps_minus_first_step(names: list[str]) -> Labelled:
    labels, matrix = _steps(names)
    return [f"({label}) less ({labels[0]})" for label in labels[1:]], matrix[1:] - matrix[:1]


COMPARISONS: dict[str, Callable[[list[str]], Labelled]] = {
    "each": _each,  # the values themselves
    "last": _last,
    "steps": _steps,  # each less the one before it
    "first_step": lambda names: _between(names, [(0, 1)]),
    "later_steps": lambda names: _between(names, [(i, i + 1) for i in range(1, len(names) - 1)]),
    "later_steps_minus_first_step": _later_steps_minus_first_step,
    "others_minus_first": lambda names: _between(names, [(0, i) for i in range(1, len(names))]),
    "last_minus_first": lambda names: _between(names, [(0, len(names) - 1)]),
}
"""Linear functions of the cells' values: their names -> labels (C,) and matrix (C, cells)."""


def intervals(measured: Measured, matrix: Values, confidence: Sequence[float], seed: int = 0) -> tuple[Values, list[tuple[Values, Values]]]:
    """Values of comparisons and their bootstrap intervals.

    Images and training seeds are drawn with replacement, each one fewer than there are, which makes the variance of a mean over few
    seeds unbiased; a single seed stays. Every cell gets the same draws.

    Args:
        measured: of C cells.
        matrix: (comparisons, C).
        confidence: of each interval, for example 0.95.
        seed: of the draws.

    Returns:
        Values (comparisons,), and for each confidence the lower and upper ends (comparisons,).

    Source: Efron & Tibshirani (1993); Rao & Wu (1988) for the number of draws.
    """
    samples = measured.samples  # (seeds, images, C, k)
    seeds, images = samples.shape[:2]
    value = matrix @ measured.reduce(samples.mean((0, 1)))
    if seeds * images == 1:
        return value, [(value, value) for _ in confidence]
    generator = np.random.default_rng(seed)

    def weights(count: int) -> Values:
        drawn = max(1, count - 1)
        return generator.multinomial(drawn, [1 / count] * count, size=DRAWS) / drawn if count > 1 else np.ones((DRAWS, 1))

    of_images, of_seeds = weights(images), weights(seeds)
    by_seed = np.einsum("bn,snf->bsf", of_images, samples.reshape(seeds, images, -1), optimize=True)
    means = np.einsum("bs,bsf->bf", of_seeds, by_seed).reshape(DRAWS, *samples.shape[2:])
    drawn = measured.reduce(means) @ matrix.T  # (draws, comparisons)
    ends = [np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0) for level in confidence]
    return value, [(low, high) for low, high in ends]
