"""Random numbers that depend on what they are for, never on how the work is split.

A forward pass is given all its random numbers: `LikelihoodModel.draw_noise` gets them from one of the classes here. `StepNumbers`
is for training: an image of a batch gets the same numbers whatever part of the batch is computed together. `KeyedNumbers` is for
evaluation and sampling: an image gets the same numbers in whatever batch, shard or order it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

POSTERIOR, PRIOR, PIXELS_GIVEN_POSTERIOR, PIXELS_GIVEN_PRIOR, PIXELS = range(5)
"""Purposes of random numbers: streams that never overlap."""


@runtime_checkable
class RandomNumbers(Protocol):
    """A source of random numbers for a batch; the first dimension of every shape counts its rows."""

    def normal(self, index: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return standard normal numbers, with the dtype and on the device of `like`; `index` tells several draws apart."""

    def uniform(self, index: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return uniform numbers in (0, 1), with the dtype and on the device of `like`."""

    def masks(self, batch: int, shapes: Sequence[tuple[int, ...]], probability: float, like: Tensor) -> list[Tensor]:
        """Return booleans (batch, *shape) for each shape, False with the given probability, to the nearest 1/256."""


class StepNumbers:
    """Random numbers of one training step.

    The batch of a step may be computed in pieces, one after another or on several devices. Every piece draws numbers for the whole
    batch from the same seed and keeps its own rows. This costs little compared with the convolutions, and the numbers of an image
    depend neither on the number of devices nor on the size of a piece.

    Args:
        seed: seed of the training; None draws from torch's global generator.
        step: number of the step.
        first: first row of this piece.
        whole: rows of the whole batch; None: this piece is the batch.
    """

    def __init__(self, seed: int | None = None, step: int = 0, first: int = 0, whole: int | None = None) -> None:
        self._seed: int | None = None
        if seed is not None:
            state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
            self._seed = int(state[0] >> np.uint64(1))
        self._first, self._whole = first, whole
        self._generator: torch.Generator | None = None

    def normal(self, index: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return standard normal numbers. Draws follow one another, so `index` is not used."""
        drawn = torch.randn(self._of_batch(shape), device=like.device, dtype=like.dtype, generator=self._of(like))
        return self._rows(drawn, shape)

    def uniform(self, index: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return uniform numbers in [0, 1)."""
        drawn = torch.rand(self._of_batch(shape), device=like.device, dtype=like.dtype, generator=self._of(like))
        return self._rows(drawn, shape)

    def masks(self, batch: int, shapes: Sequence[tuple[int, ...]], probability: float, like: Tensor) -> list[Tensor]:
        """Return booleans. One draw of the generator makes eight of them, and one call makes all."""
        sizes = [(self._whole or batch) * math.prod(shape) for shape in shapes]
        words = torch.empty(-(-sum(sizes) // 8), dtype=torch.int64, device=like.device)
        words.random_(-(2**63), None, generator=self._of(like))
        keep = words.view(torch.uint8)[: sum(sizes)] >= _least(probability)
        found = [part.view(-1, *shape) for part, shape in zip(torch.split(keep, sizes), shapes, strict=True)]
        return [self._rows(one, (batch,)) for one in found]

    def _of(self, like: Tensor) -> torch.Generator | None:
        if self._seed is not None and self._generator is None:
            self._generator = torch.Generator(like.device).manual_seed(self._seed)
        return self._generator

    def _of_batch(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self._whole or shape[0], *shape[1:])

    def _rows(self, drawn: Tensor, shape: tuple[int, ...]) -> Tensor:
        return drawn if len(drawn) == shape[0] else drawn[self._first : self._first + shape[0]]


class KeyedNumbers:
    """Random numbers of images: each row of a batch is an (image, sample) pair and has its own generator.

    Args:
        seed: seed of the experiment.
        stream: what the numbers are for: POSTERIOR, PRIOR and so on.
        images: image index of each row.
        samples: sample index of each row; None: 0.

    Source: Salmon et al. (2011), Philox; the key holds seed and image, the upper counter words sample, stream and index.
    """

    def __init__(self, seed: int, stream: int, images: Sequence[int], samples: Sequence[int] | None = None) -> None:
        self.seed, self.stream, self.images = seed, stream, images
        self.samples: Sequence[int] = [0] * len(images) if samples is None else samples

    def normal(self, index: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return standard normal numbers of shape (rows, ...)."""
        rows = [generator.standard_normal(shape[1:], dtype=np.float32) for generator in self._generators(index)]
        return torch.from_numpy(np.stack(rows)).to(like)

    def uniform(self, index: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return uniform numbers in [1e-5, 1 - 1e-5), the range of the published PixelCNN++ sampler, of shape (rows, ...)."""
        rows = [generator.random(shape[1:]) for generator in self._generators(index)]
        return torch.from_numpy(1e-5 + (1 - 2e-5) * np.stack(rows)).to(like)

    def masks(self, batch: int, shapes: Sequence[tuple[int, ...]], probability: float, like: Tensor) -> list[Tensor]:
        """Return booleans (batch, *shape) for each shape."""
        rows = [[generator.integers(0, 256, shape, dtype=np.uint8) for shape in shapes] for generator in self._generators(0)]
        return [torch.from_numpy(np.stack(one) >= _least(probability)).to(like.device) for one in zip(*rows, strict=True)]

    def _generators(self, index: int) -> list[np.random.Generator]:
        return [
            keyed_generator(self.seed, image, sample, self.stream, index) for image, sample in zip(self.images, self.samples, strict=True)
        ]


def keyed_generator(seed: int, image: int, sample: int, stream: int, index: int = 0) -> np.random.Generator:
    """Return the counter-based generator of one (seed, image, sample, stream, index)."""
    counter = np.array([0, index, sample, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, image], dtype=np.uint64), counter=counter))


def kept_share(probability: float) -> float:
    """Return the share of elements that masks keep: 1 - probability, rounded to 1/256, never 0 or 1."""
    return 1 - _least(probability) / 256


def _least(probability: float) -> int:
    """Return the smallest byte that is kept."""
    return min(max(round(256 * probability), 1), 255)
