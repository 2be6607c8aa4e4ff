"""The standard error of a mean over test images and training seeds, defined once for tables, figures and claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

FORMULA = "sqrt(mean over seeds of (standard error over images)² + variance over seeds / number of seeds)"
"""`standard_error` in words, for captions."""


def standard_error_of_images(values: Sequence[float]) -> float | None:
    """Return the standard error of a mean over images.

    Args:
        values: one value per test image, for one model.

    Returns:
        Standard deviation (n - 1 in the denominator) / sqrt(n), in the unit of the values; None for a single image.
    """
    images = len(values)
    if images < 2:
        return None
    mean = math.fsum(values) / images
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (images - 1) / images)


def standard_error(means: Sequence[float], of_images: Sequence[float]) -> float:
    """Return the standard error of a mean over images and seeds.

    All seeds are measured on the same images, so the error due to the choice of images does not shrink with the number of seeds,
    while the error due to training does. The two are added in quadrature:
    sqrt(mean_s(of_images_s^2) + variance_s(mean_s) / S), with the second term only for S > 1.

    Args:
        means: means over images, one per seed.
        of_images: standard errors over images, one per seed, in the same unit; NaN where there is a single image.

    Returns:
        The standard error, in the same unit; NaN if a standard error over images is NaN.

    Raises:
        ValueError: there are no seeds, or the lengths differ.
    """
    seeds = len(means)
    if seeds == 0 or len(of_images) != seeds:
        raise ValueError(f"{seeds} means and {len(of_images)} standard errors; accepted: one of each for every seed")
    mean = math.fsum(means) / seeds
    images = math.fsum(error**2 for error in of_images) / seeds
    trainings = math.fsum((value - mean) ** 2 for value in means) / (seeds - 1) / seeds if seeds > 1 else 0.0
    return math.sqrt(images + trainings)


def over_seeds(table: pd.DataFrame, quantity: str, by: Sequence[str] = ("cell",)) -> pd.DataFrame:
    """Average a quantity over seeds, with its standard error over images and seeds.

    Args:
        table: one row per seed. The column `quantity` has the mean over images, the column `quantity`_standard_error the standard error
            over images.
        quantity: name of the column.
        by: columns that identify the groups which are averaged separately.

    Returns:
        One row per group in the order of the table, indexed by `by`: columns `value`, `standard_error` and `seeds`.
    """
    groups = table.groupby(list(by), sort=False, dropna=False)
    means = groups.agg(value=(quantity, "mean"), seeds=(quantity, "size"))
    errors = [standard_error(rows[quantity].to_list(), rows[f"{quantity}_standard_error"].to_list()) for _, rows in groups]
    means.insert(1, "standard_error", errors)
    return means


def rank_correlation(values: NDArray[np.float64], published: Sequence[float]) -> NDArray[np.float64]:
    """Return Spearman's rank correlation of our values with published ones; equal values share their mean rank.

    Args:
        values: (..., C), one value per model.
        published: C values, not all equal.

    Returns:
        (...), from -1 to 1; 0 where all values are equal.
    """
    from scipy.stats import rankdata

    ours, theirs = (rankdata(one, axis=-1) - (len(published) + 1) / 2 for one in (values, np.asarray(published)))
    norms = np.sqrt((ours**2).sum(-1) * (theirs**2).sum())
    correlation: NDArray[np.float64] = np.divide((ours * theirs).sum(-1), norms, out=np.zeros_like(norms), where=norms > 0)
    return correlation
