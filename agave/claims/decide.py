"""Decide claims by intervals over test images and training seeds.

A claim is never decided by comparing just two numbers. Every comparison is a function of means over images and seeds. Both are drawn
again many times, with the same draws for all models of a comparison, and the middle 95 % of the outcomes are its interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agave.claims.comparisons import COMPARISONS
from agave.claims.evidence import Apart, Evidence, Measured, NotTestableError, short_name
from agave.claims.language import Accept, Claim, Test
from agave.published import DATA_SET, IMAGES

Verdict = Literal["holds", "does not hold", "undecided", "not testable at this scale"]
VERDICTS: tuple[Verdict, ...] = ("holds", "does not hold", "undecided", "not testable at this scale")
Values = NDArray[np.float64]

CONFIDENCE = 0.95
ROUNDING = 1e-9
"""Two numbers are equal where they differ by less than this part of the largest number that went into them: far above the rounding
of a sum in double precision, which depends on its order and so on the CPU, and far below any difference that a claim is about."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of one comparison.

    Attributes:
        test: test that it belongs to.
        label: models that were compared, in words.
        value: over all images and seeds.
        low: lower end of the interval; equal to the value where nothing was sampled.
        high: upper end of it.
        verdict: verdict of this comparison alone.
    """

    test: Test
    label: str
    value: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Decision:
    """A claim and its verdict.

    Attributes:
        claim: as in claims.yaml.
        verdict: verdict of all its comparisons together.
        comparisons: empty if it is not testable.
        basis: images and seeds that it is based on, or why it is not testable.
    """

    claim: Claim
    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    basis: str


def decide(claim: Claim, evidence: Evidence) -> Decision:
    """Decide a claim by the results of a preset.

    The claim holds if every interval lies within the accepted range. It does not hold if one interval lies outside, at a confidence
    shared among the comparisons of the claim (Bonferroni), so that many comparisons do not refute a claim by chance.

    Args:
        claim: as in claims.yaml.
        evidence: the results.

    Returns:
        The verdict with its comparisons.

    Raises:
        UserError: a result is missing or damaged.
    """
    params = evidence.params
    try:
        if claim.needs == "published" and not evidence.published:
            raise NotTestableError(f"needs networks of the published size and the {IMAGES:,} {DATA_SET} images (preset paper)")
        prepared = []
        for test in claim.tests:
            cells = test.cells(params)
            measured = evidence.measure(test.measure, cells)
            labels, matrix = COMPARISONS[test.compare]([short_name(cell, params) for cell in cells] or list(measured.labels))
            if not labels:
                raise NotTestableError(f"the grid of this preset has too few of these models for {test.compare}")
            prepared.append((test, measured, labels, matrix))
    except NotTestableError as reason:
        return Decision(claim, "not testable at this scale", (), str(reason))
    number = sum(len(labels) for _, _, labels, _ in prepared)
    found = [one for test, measured, labels, matrix in prepared for one in _compared(test, measured, labels, matrix, number)]
    verdicts = {one.verdict for one in found}
    overall: Verdict = "does not hold" if "does not hold" in verdicts else "undecided" if "undecided" in verdicts else "holds"
    return Decision(claim, overall, tuple(found), "; ".join(dict.fromkeys(measured.basis for _, measured, _, _ in prepared)))


def _compared(test: Test, measured: Measured | Apart, labels: list[str], matrix: Values, number: int) -> list[Comparison]:
    """Return the comparisons of a test; `number` is that of all comparisons of the claim."""
    levels = (CONFIDENCE, 1 - (1 - CONFIDENCE) / number)
    value, ends, scale = measured.compare(matrix, levels)
    found = []
    for label, numbers, size in zip(labels, np.stack([value, *ends[0], *ends[1]], axis=1), scale, strict=True):
        exact, low, high, lowest, highest = settled(numbers, float(size), test.accept)
        found.append(Comparison(test, label, exact, low, high, _verdict(test.accept, (low, high), (lowest, highest))))
    return found


def settled(numbers: Values, scale: float, accept: Accept) -> list[float]:
    """Replace numbers that differ from 0, a limit or each other by rounding alone, so that no verdict hangs on a last digit.

    Args:
        numbers: the value of a comparison, then the ends of its intervals.
        scale: sum of the magnitudes that the comparison adds or subtracts.
        accept: the limits.

    Returns:
        The numbers, with 0 or a limit in place of those that equal it up to `ROUNDING`, and all equal to the value if the intervals are
        a point up to `ROUNDING`.
    """
    if np.ptp(numbers) <= ROUNDING * scale:
        numbers = np.full_like(numbers, numbers[0])
    for limit in (0.0, *accept.range):
        if np.isfinite(limit):
            numbers = np.where(np.abs(numbers - limit) <= ROUNDING * max(scale, abs(limit)), limit, numbers)
    settled_numbers: list[float] = numbers.tolist()
    return settled_numbers


def _verdict(accept: Accept, interval: tuple[float, float], wide: tuple[float, float]) -> Verdict:
    """Judge a comparison by its interval, and by a wider one that must lie outside entirely to refute it."""
    least, most = accept.range
    closed = accept.within is not None  # "above 0" does not include 0 itself
    if (least <= interval[0] and interval[1] <= most) if closed else (least < interval[0] and interval[1] < most):
        return "holds"
    misses = wide[0] > most or wide[1] < least
    return "does not hold" if misses or interval[0] == interval[1] else "undecided"
