"""Comparisons of measured models: linear functions of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Labelled = tuple[list[str], Values]


def _each(names: list[str]) -> Labelled:
    return names, np.eye(len(names))


def _last(names: list[str]) -> Labelled:
    return names[-1:], np.eye(len(names))[-1:]


def _between(names: list[str], pairs: Sequence[tuple[int, int]]) -> Labelled:
    """Return one row per pair (minus, plus) of models."""
    identity = np.eye(len(names))
    matrix = np.array([identity[plus] - identity[minus] for minus, plus in pairs]).reshape(len(pairs), len(names))
    return [f"{names[minus]} → {names[plus]}" for minus, plus in pairs], matrix


def _steps(names: list[str]) -> Labelled:
    return _between(names, [(i, i + 1) for i in range(len(names) - 1)])


def _later_steps_minus_first_step(names: list[str]) -> Labelled:
    labels, matrix = _steps(names)
    return [f"({label}) less ({labels[0]})" for label in labels[1:]], matrix[1:] - matrix[:1]


COMPARISONS: dict[str, Callable[[list[str]], Labelled]] = {
    "each": _each,  # the values themselves
    "last": _last,
    "steps": _steps,  # each less the one before it
    "later_steps_minus_first_step": _later_steps_minus_first_step,
    "others_minus_first": lambda names: _between(names, [(0, i) for i in range(1, len(names))]),
    "last_minus_others": lambda names: _between(names, [(i, len(names) - 1) for i in range(len(names) - 1)]),
    "last_minus_first": lambda names: _between(names, [(0, len(names) - 1)] if len(names) > 1 else []),
}
"""Functions by name: each maps the names of the models to labels (C,) and a matrix (C, models), without rows for too few models."""
