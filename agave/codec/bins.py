"""Bins of a latent variable, and the stack operations that pop and push them with a normal distribution."""

from __future__ import annotations

from bisect import bisect_right
from statistics import NormalDist

import numpy as np
from scipy.special import ndtr, ndtri

from agave.codec.entropy import Floats, Integers, Stack, normal_cdf

SLOT_BITS = 28
"""Logarithm of the number of slots. Two of them for each of 2^8 bins cost 0.000003 bits a latent variable."""

MOST_BITS = 16
"""Largest logarithm of the number of bins."""

WIDTH = 2.0
"""Standard deviation, in units of the prior, of the normal distribution under which all bins have the same mass. With that of the prior,
bins in its tails are so wide that a posterior there lies inside one of them, and its middle says little of z."""

_NUMBER_BITS = 32


class Bins:
    """Bins of a latent variable in units of its prior, popped and pushed with normal distributions.

    There are 2^28 slots. Two of them belong to each bin whatever the distribution: slots 2 u and 2 u + 1 to bin u. The others, in the same
    order, are divided by the distribution. Under the prior all slots of a bin lie side by side.

    To pop bins, one slot for each is popped with all slots equally likely. The slot determines the bin, and its number among the slots of
    the bin, again equally likely, is pushed back.

    Attributes:
        middles: medians of the bins, (2^bits,).
        costs: bits that each bin costs under the prior, (2^bits,).

    Args:
        bits: logarithm of the number of bins, 1 to 16.

    Raises:
        ValueError: there are more or fewer bins.
    """

    def __init__(self, bits: int) -> None:
        if not 1 <= bits <= MOST_BITS:
            raise ValueError(f"{bits} bits; accepted: 1 to {MOST_BITS}")
        self.bits, self.count = bits, 1 << bits
        self._divided = float((1 << SLOT_BITS) - 2 * self.count)
        quantile = NormalDist(sigma=WIDTH).inv_cdf
        # rounded to 2^-32, because the logarithm inside may differ in its last digit from machine to machine
        inner = [round(quantile(u / self.count) * 2**32) / 2**32 for u in range(1, self.count)]
        self.middles: Floats = np.array([round(quantile((u + 0.5) / self.count) * 2**32) / 2**32 for u in range(self.count)])
        self._edges = np.array([-np.inf, *inner, np.inf])
        every = np.arange(self.count)
        self._starts = np.append(self._limits(every, np.zeros(self.count), np.ones(self.count))[0] + 2 * every, 1 << SLOT_BITS)
        self.costs: Floats = SLOT_BITS - np.log2(np.diff(self._starts))

    @property
    def entropy(self) -> float:
        """Return how many bits a bin costs on average under the prior."""
        return float((self.costs * 2.0 ** (-self.costs)).sum())

    def of_slots(self, slots: Integers) -> Integers:
        """Return the bins that slots belong to under the prior."""
        return np.searchsorted(self._starts, slots, side="right") - 1

    def push_prior(self, stack: Stack, bins: Integers) -> None:
        """Push bins (N,) with the prior, the last one first."""
        starts = self._starts[bins[::-1]]
        stack.push(starts.tolist(), (self._starts[bins[::-1] + 1] - starts).tolist(), SLOT_BITS)

    def pop_prior(self, stack: Stack, count: int) -> Integers:
        """Pop bins (count,) with the prior, the first one first.

        Raises:
            Exhausted: the stack does not hold so many.
        """
        starts = self._starts.tolist()

        def find(index: int, slot: int) -> tuple[int, int, int]:
            found = bisect_right(starts, slot) - 1
            return found, starts[found], starts[found + 1] - starts[found]

        return np.array(stack.pop(count, SLOT_BITS, find), np.int64)

    def pop(self, stack: Stack, mean: Floats, inverse_deviation: Floats) -> tuple[Integers, Floats]:
        """Pop bins with the distributions N(mean, 1 / inverse_deviation^2), (N,) each.

        Returns:
            The bins, and the bits that each has cost, both (N,).

        Raises:
            Exhausted: the stack does not hold so many bits.
        """
        slots = np.array(stack.pop_raw(len(mean), SLOT_BITS), np.int64)
        bins, limits = self._find(slots, mean, inverse_deviation)
        numbers = np.where(slots < 2 * self.count, slots - 2 * bins, slots - 2 * self.count - limits[0] + 2)
        frequencies = 2 + limits[1] - limits[0]
        starts = _starts(numbers, frequencies)
        stack.push(starts.tolist(), (_starts(numbers + 1, frequencies) - starts).tolist(), _NUMBER_BITS)
        return bins, SLOT_BITS - np.log2(frequencies)

    def push(self, stack: Stack, bins: Integers, mean: Floats, inverse_deviation: Floats) -> None:
        """Push bins: the exact inverse of `pop`.

        Raises:
            Exhausted: the stack does not hold enough bits for the numbers of the slots.
        """
        limits = self._limits(bins, mean, inverse_deviation)
        frequencies = (2 + limits[1] - limits[0])[::-1].tolist()

        def find(index: int, slot: int) -> tuple[int, int, int]:
            number = ((slot + 1) * frequencies[index] - 1) >> _NUMBER_BITS
            start = (number << _NUMBER_BITS) // frequencies[index]
            return number, start, ((number + 1) << _NUMBER_BITS) // frequencies[index] - start

        numbers = np.array(stack.pop(len(bins), _NUMBER_BITS, find)[::-1], np.int64)
        slots = np.where(numbers < 2, 2 * bins + numbers, 2 * self.count + limits[0] + numbers - 2)
        stack.push_raw(slots[::-1].tolist(), SLOT_BITS)

    def _find(self, slots: Integers, mean: Floats, inverse_deviation: Floats) -> tuple[Integers, Integers]:
        """Return the bins (N,) that slots belong to, and their limits (2, N)."""
        divided = slots - 2 * self.count
        noise = ndtri((np.maximum(divided, 0) + 0.5) / self._divided)
        guess = (ndtr((mean + noise / inverse_deviation) / WIDTH) * self.count).astype(np.int64).clip(0, self.count - 1)
        bins = np.where(divided < 0, slots // 2, guess)
        limits = self._limits(bins, mean, inverse_deviation)
        wrong = (divided >= 0) & ((divided < limits[0]) | (divided >= limits[1]))  # very near the edge of a bin
        if wrong.any():
            bins[wrong] = self._bisect(divided[wrong], mean[wrong], inverse_deviation[wrong])
            limits[:, wrong] = self._limits(bins[wrong], mean[wrong], inverse_deviation[wrong])
        return bins, limits

    def _limits(self, bins: Integers, mean: Floats, inverse_deviation: Floats) -> Integers:
        """Return how many of the divided slots lie below the start and below the end of each bin, (2, N)."""
        edges = self._edges[np.stack((bins, bins + 1))]
        return np.floor(normal_cdf((edges - mean) * inverse_deviation) * self._divided + 0.5).astype(np.int64)

    def _bisect(self, divided: Integers, mean: Floats, inverse_deviation: Floats) -> Integers:
        bins, step = np.zeros_like(divided), self.count
        while step > 1:
            step //= 2
            bins += np.where(self._limits(bins + step, mean, inverse_deviation)[0] <= divided, step, 0)
        return bins


def _starts(numbers: Integers, among: Integers) -> Integers:
    """Return where on a scale of 2^32 equal parts begin: floor(2^32 number / among)."""
    return ((numbers.astype(np.uint64) << np.uint64(_NUMBER_BITS)) // among.astype(np.uint64)).astype(np.int64)
