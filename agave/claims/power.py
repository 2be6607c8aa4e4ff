"""What the energy coefficient says of samples whose answer is known, and of the samples of the models, as a scale for the claims."""

from __future__ import annotations

from typing import Any

import numpy as np

from agave import energy, grid, measures
from agave.claims.decide import CONFIDENCE
from agave.claims.evidence import Apart, Evidence, NotTestableError, short_name
from agave.measures import COARSE, Images
from agave.published import NAMES

SAME, SHUFFLED = "half of the test images", "the same half, squares shuffled"


def power_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Compare known samples and those of the models with test images, by the energy coefficient.

    One half of the test images is compared with the other, as it is and with the squares of each coarse image shuffled: the statistic
    must be near 0 for the first and above 0 for the second. The models are compared with all of them.

    Args:
        evidence: the results.

    Returns:
        The rows of claims/power.csv.

    Raises:
        UserError: a result is missing or damaged.
    """
    params = evidence.params
    alone = grid.baselines(params)[1]
    test = np.asarray(evidence.measures_of(alone, "coarse_original")[0], np.uint8)  # (N, COARSE * COARSE * 3)
    first, second = test[::2], test[1::2]
    known = {SAME: first, SHUFFLED: shuffled(first)}
    rows = [_row(name, one.shape[:1], Apart((_distances(one[None], second, test),), "")) for name, one in known.items()]
    for cell in (alone, *grid.kl_weight_cells(params), *grid.further_cells(params)):
        name = f"samples of AGAVE, {short_name(cell, params)}" if cell.kind == "agave" else f"samples of {NAMES[cell.system]}"
        try:
            found = evidence.apart([cell])
        except NotTestableError:
            continue
        rows.append(_row(name, found.found[0].across.shape[1::-1], found))
    return rows


def shuffled(coarse: Images, seed: int = 0) -> Images:
    """Shuffle the squares of each coarse image (N, COARSE * COARSE * 3), the three colours of a square together."""
    generator = np.random.default_rng(seed)
    squares = coarse.reshape(len(coarse), COARSE**2, 3)
    return np.stack([one[generator.permutation(COARSE**2)] for one in squares]).reshape(coarse.shape)


def _distances(first: Images, second: Images, reference: Images) -> energy.Distances:
    return energy.distances(measures.standardised(first, reference), measures.standardised(second, reference))


def _row(name: str, shape: tuple[int, ...], apart: Apart) -> dict[str, Any]:
    value, ((low, high),), _ = apart.compare(np.eye(1), [CONFIDENCE])
    numbers = {"energy": value[0], "low": low[0], "high": high[0]}
    images, seeds = (*shape, 1)[:2]
    return {"sample": name, "images": images, "seeds": seeds} | {key: float(f"{number:.6g}") for key, number in numbers.items()}
