"""Learning rate, images of the batch and weight averaging, as functions of the step alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from agave.config import Training


def learning_rate(options: Training, step: int) -> float:
    """Return the learning rate of step 0, 1, ...: linear warm-up, constant, linear cool-down."""
    rate = options.learning_rate
    if step < options.warmup_steps:
        rate *= (step + 1) / options.warmup_steps
    left = options.steps - step
    if left <= options.cooldown_steps:
        rate *= left / options.cooldown_steps
    return rate


def batch_indices(step: int, batch: int, images: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the indices of the images of a step: consecutive pieces of seeded permutations, one per epoch.

    A resumed training sees the same images as an uninterrupted one.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // images
    return np.array([_order(int(epoch), images, seed)[position % images] for epoch, position in zip(epochs, positions, strict=True)])


@lru_cache(maxsize=4)
def _order(epoch: int, images: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng([seed, epoch]).permutation(images)


def ema_rate(updates: int, decay: float) -> float:
    """Return how far the average moves towards new weights: averaged <- averaged + rate (weights - averaged).

    The first weights are the average itself. Then the rate is 1 - min(decay, (1 + t) / (10 + t)), which forgets early steps quickly.

    Args:
        updates: number t of the updates of the average before this one.
        decay: decay per step when t is large.

    Source: the debiased form of the published PixelCNN++ average; TensorFlow's ExponentialMovingAverage.
    """
    return 1.0 - min(decay, (1 + updates) / (10 + updates)) if updates > 0 else 1.0
