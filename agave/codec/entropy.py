"""The entropy coder: a stack of bits, and arithmetic that gives the same integers on every machine.

The stack is a range variant of asymmetric numeral systems (rANS). What is pushed last is popped first, and popping with one
distribution and pushing with the same one are exact inverses, as bits-back coding needs.

The functions below the stack use only + - * / floor and bit operations on 64-bit floats, in a fixed order. IEEE 754 defines their
results to the last bit, so they depend neither on the C library nor on vector instructions; numpy's own exp and tanh do.

Source: Duda (2013), Asymmetric numeral systems.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LOWEST = 1 << 48
"""Between two symbols the state lies in [2^48, 2^64). At most 32 bits of precision lie 16 bits below it: the loss is below 2^-16 bits."""


class Exhausted(Exception):  # noqa: N818
    """More bits were popped than the stack holds."""


class Stack:
    """A stack of bits: words of 16 bits, and a state that holds the 48 to 64 bits on top.

    Args:
        words: the words from the bottom up.
        state: the state, in [2^48, 2^64).
    """

    def __init__(self, words: Iterable[int] = (), state: int = LOWEST) -> None:
        self.words, self.state = list(words), state

    def __eq__(self, other: object) -> bool:
        """Return whether two stacks hold the same bits."""
        return isinstance(other, Stack) and (self.words, self.state) == (other.words, other.state)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def copy(self) -> Stack:
        """Return a stack that holds the same bits."""
        return Stack(self.words, self.state)

    def push(self, starts: Iterable[int], frequencies: Iterable[int], precision: int) -> None:
        """Push symbols, the first one first.

        Args:
            starts: first of the 2^precision slots of each symbol.
            frequencies: number of slots of each symbol, at least 1; the symbol costs precision - log2(frequency) bits.
            precision: logarithm of the number of all slots, at most 32.
        """
        words, state, shift = self.words, self.state, 64 - precision
        for start, frequency in zip(starts, frequencies, strict=True):
            while state >= frequency << shift:
                words.append(state & 0xFFFF)
                state >>= 16
            whole, rest = divmod(state, frequency)
            state = (whole << precision) + rest + start
        self.state = state

    def pop(self, count: int, precision: int, find: Callable[[int, int], tuple[int, int, int]]) -> list[int]:
        """Pop symbols.

        Args:
            count: number of symbols.
            precision: as it was in `push`.
            find: given the number of the symbol and a slot, returns the symbol that the slot belongs to, its start and its frequency.

        Returns:
            The symbols, the one pushed last first.

        Raises:
            Exhausted: the stack does not hold so many.
        """
        words, state, mask, found = self.words, self.state, (1 << precision) - 1, []
        for index in range(count):
            slot = state & mask
            symbol, start, frequency = find(index, slot)
            found.append(symbol)
            state = frequency * (state >> precision) + slot - start
            while state < LOWEST:
                if not words:
                    raise Exhausted
                state = state << 16 | words.pop()
        self.state = state
        return found

    def push_raw(self, values: Iterable[int], bits: int) -> None:
        """Push integers below 2^bits as they are."""
        values = list(values)
        self.push(values, [1] * len(values), bits)

    def pop_raw(self, count: int, bits: int) -> list[int]:
        """Pop integers of `push_raw`, the last one first."""
        return self.pop(count, bits, lambda index, slot: (slot, slot, 1))

    def pop_tabulated(self, tables: Integers, precision: int) -> list[int]:
        """Pop one symbol with each row of `tables` (symbols, values + 1): the first slot of every value, and 2^precision at the end."""
        count, length = tables.shape
        slots = memoryview(tables.ravel())  # type: ignore[arg-type]

        def find(index: int, slot: int) -> tuple[int, int, int]:
            first = index * length
            place = bisect_right(slots, slot, first, first + length) - 1
            start: int = slots[place]
            return place - first, start, slots[place + 1] - start

        return self.pop(count, precision, find)

    def take_words(self, count: int) -> Integers:
        """Take words off the top, as they are; the one nearest to the top is the last of the result.

        Raises:
            Exhausted: there are not so many words.
        """
        if count > len(self.words):
            raise Exhausted
        kept = len(self.words) - count
        taken = np.array(self.words[kept:], np.int64)
        del self.words[kept:]
        return taken

    def put_words(self, words: Integers) -> None:
        """Put back what `take_words` has taken."""
        self.words.extend(words.tolist())


_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # a multiple of it up to 2^20 is exact; the rest of log 2
_INVERSE_FACTORIALS = [1 / math.factorial(n) for n in range(14)]


def exp(x: Floats) -> Floats:
    """Return the exponential of x, with x brought to [-700, 700] first; the relative error is below 4e-16.

    exp(x) = 2^k exp(r) with the integer k nearest to x / log(2), and the Taylor polynomial of degree 13 for exp(r), |r| < 0.35.
    """
    x = np.minimum(np.maximum(x, -700.0), 700.0)
    k = np.floor(x * _LOG2_E + 0.5)
    x -= k * _LN2_HIGH
    x -= k * _LN2_LOW
    result = np.full_like(x, _INVERSE_FACTORIALS[13])
    for factor in _INVERSE_FACTORIALS[12::-1]:
        result *= x
        result += factor
    exponent_bits = k.astype(np.int64)
    exponent_bits += 1023
    exponent_bits <<= 52
    result *= exponent_bits.view(np.float64)  # 2^k
    return result


def tanh(x: Floats) -> Floats:
    """Return the hyperbolic tangent of x."""
    t = exp(-2.0 * np.abs(x))
    return np.copysign((1.0 - t) / (1.0 + t), x)


_HART_ABOVE = (
    *(3.52624965998911e-2, 0.700383064443688, 6.37396220353165, 33.912866078383, 112.079291497871, 221.213596169931),
    220.206867912376,
)
_HART_BELOW = (
    *(8.83883476483184e-2, 1.75566716318264, 16.064177579207, 86.7807322029461, 296.564248779674, 637.333633378831),
    *(793.826512519948, 440.413735824752),
)


def normal_cdf(x: Floats) -> Floats:
    """Return the integral of the standard normal density up to x; the absolute error is below 4e-16.

    Source: Hart (1968), Computer Approximations, number 5666, as given by West (2005), Better approximations to cumulative normal
    functions.
    """
    a = np.minimum(np.abs(x), 37.0)
    upper = _polynomial(a, _HART_ABOVE) / _polynomial(a, _HART_BELOW)
    far = a >= 7.07106781186547
    if far.any():
        b = a[far]
        upper[far] = 1.0 / ((b + 1.0 / (b + 2.0 / (b + 3.0 / (b + 4.0 / (b + 0.65))))) * 2.506628274631)
    upper *= exp(-0.5 * a * a)
    return np.where(x > 0, 1.0 - upper, upper)


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result *= x
        result += coefficient
    return result


GRID = float(1 << 14)
"""Steps of the grid in a unit. What a network computes is rounded to it before it becomes a probability."""

OFFSETS = 256
"""Number of places that the grid can have, 1/256 of a step apart."""


def round_to_grid(values: Floats, offset: int = 0) -> Floats:
    """Round values to multiples of 2^-14, shifted by -offset/256 of a step.

    Two computations of a network in 64-bit floats differ by some 1e-14. After rounding they are equal, unless a boundary of the grid lies
    between them; `distance_to_boundary` tells how far the nearest one is.
    """
    shift = offset / OFFSETS
    return np.asarray((np.floor(values * GRID + (shift + 0.5)) - shift) / GRID)


def distance_to_boundary(values: Floats, offset: int = 0) -> Floats:
    """Return the distance of each value to the nearest boundary of the grid of `round_to_grid`."""
    scaled = values * GRID + (offset / OFFSETS + 0.5)
    return np.asarray(np.abs(scaled - np.rint(scaled)) / GRID)
