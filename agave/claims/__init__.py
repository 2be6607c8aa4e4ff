"""The step `claims`: what the paper says (claims.yaml), each claim decided by intervals over test images and training seeds.

A claim is never decided by a bare comparison of two numbers. Every comparison is a function of means over images and seeds; both
are drawn again many times, the same draws for all models of a comparison, and the middle 95 % of what comes out is its interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agave import grid
from agave.claims.comparisons import COMPARISONS, intervals
from agave.claims.evidence import MEASURES, Evidence
from agave.config import Params
from agave.csv_tables import write_table
from agave.errors import UserError
from agave.files import atomic_write
from agave.grid import Cell
from agave.results import CLAIMS, CLAIMS_PAGE, Results
from agave.tables import PUBLISHED_DATA_SET, PUBLISHED_IMAGES

Verdict = Literal["holds", "does not hold", "undecided", "not testable at this scale"]

CONFIDENCE = 0.95


class Strict(BaseModel):
    """A part of claims.yaml; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Accept(Strict):
    """The values that agree with a claim: exactly one of the three."""

    above: float | None = None
    below: float | None = None
    within: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _one(self) -> Accept:
        if sum(value is not None for value in (self.above, self.below, self.within)) != 1:
            raise ValueError("accepted: one of above, below and within")
        if self.within is not None and self.within[0] > self.within[1]:
            raise ValueError(f"within {list(self.within)}; accepted: [low, high]")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """From, to; infinite where there is no end."""
        if self.within is not None:
            return self.within
        return (-math.inf if self.above is None else self.above, math.inf if self.below is None else self.below)

    def __str__(self) -> str:
        if self.within is not None:
            low, high = self.within
            return f"= {low:g}" if low == high else f"{low:g} to {high:g}"
        return f"> {self.above:g}" if self.above is not None else f"< {self.below:g}"


class Test(Strict):
    """One measurement of some models, compared with each other."""

    measure: str
    cells: str | list[str] = Field(default_factory=list)
    compare: str
    accept: Accept

    @model_validator(mode="after")
    def _known(self) -> Test:
        for kind, name, known in (("measure", self.measure, MEASURES), ("compare", self.compare, COMPARISONS)):
            if name not in known:
                raise ValueError(f"{kind} '{name}'; accepted: {', '.join(known)}")
        return self


class Claim(Strict):
    """What the paper says, and how it is tested."""

    id: Annotated[str, Field(pattern=r"^C[1-9][0-9]*$")]
    where: str
    claim: str
    needs: Literal["anything", "published"] = "anything"
    tests: list[Test] = Field(min_length=1)
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """The outcome of one comparison.

    Attributes:
        test: which it belongs to.
        label: what was compared.
        value: over all images and seeds.
        low, high: ends of the interval; equal to the value where nothing was sampled.
        verdict: of this comparison alone.
    """

    test: Test
    label: str
    value: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Decision:
    """A claim and what became of it.

    Attributes:
        claim: as in claims.yaml.
        verdict: of all its comparisons together.
        comparisons: empty if it is not testable.
        basis: images and seeds that it rests on, or why it is not testable.
    """

    claim: Claim
    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    basis: str


class NotTestableError(Exception):
    """The preset has not what a claim needs; the message says what."""


def chosen_cells(chosen: str | Sequence[str], params: Params) -> list[Cell]:
    """The cells that a test of claims.yaml names.

    Raises:
        NotTestableError: the grid of the preset lacks one.
        UserError: there is no such name.
    """
    if isinstance(chosen, str):
        groups: dict[str, list[Cell]] = {
            "kl_weights": grid.kl_weight_cells(params),
            "kl_weights_from_2": [cell for cell in grid.kl_weight_cells(params) if cell.kl_weight >= 2],
            "levels": grid.levels_cells(params),
            "resolutions_at_levels_weight": [
                cell
                for cell in (*grid.levels_cells(params)[:1], *grid.resolution_cells(params))
                if cell.kl_weight == params.grid.levels_kl_weight and cell.levels == 256
            ],
        }
        if chosen not in groups:
            raise UserError(f"cells '{chosen}'; accepted: {', '.join(groups)}, or a list of names")
        if len(groups[chosen]) < 2:
            raise NotTestableError(f"the grid of this preset has fewer than two of the models {chosen}")
        return groups[chosen]
    return [_named_cell(name, params) for name in chosen]


def _named_cell(name: str, params: Params) -> Cell:
    size, (vae, pixelcnn_pp) = params.prepare.image_size, grid.baselines(params)
    found: dict[str, list[Cell]] = {
        "vae": [vae],
        "pixelcnn_pp": [pixelcnn_pp],
        "table": [grid.table_cells(params)[1]],
        "without_auxiliary": grid.without_auxiliary_cells(params),
        # of several KL weights the first that the grid names
        "half_resolution": [
            Cell(kl_weight=c.kl_weight, resolution=c.resolution) for c in params.grid.resolutions if c.resolution == size // 2
        ],
        "quarter_resolution": [
            Cell(kl_weight=c.kl_weight, resolution=c.resolution) for c in params.grid.resolutions if c.resolution == size // 4
        ],
    } | {f"levels_{cell.levels}": [cell] for cell in grid.levels_cells(params)}
    if name not in found and not (name.startswith("levels_") and name.removeprefix("levels_").isdigit()):
        raise UserError(f"cell '{name}'; accepted: {', '.join(found)}")
    if not found.get(name):
        raise NotTestableError(f"the grid of this preset has no model {name}")
    return found[name][0]


def short_name(cell: Cell, params: Params) -> str:
    """How a comparison names a cell."""
    if cell.kind != "agave":
        return "VAE" if cell.kind == "vae" else "PixelCNN++"
    parts = [f"λ {cell.kl_weight:g}"]
    parts += [f"{cell.levels} levels"] * (cell.levels != 256)
    parts += [f"{cell.resolution}×{cell.resolution}"] * (cell.resolution != params.prepare.image_size)
    return ", ".join(parts + ["no auxiliary loss"] * (not cell.auxiliary))


def decide(claim: Claim, evidence: Evidence) -> Decision:
    """What the results of a preset say about a claim.

    It holds if every interval lies within what is accepted. It does not hold if one lies outside, at a confidence shared among the
    comparisons of the claim (Bonferroni), so that many comparisons do not refute a claim by chance.

    Raises:
        UserError: a result is missing or damaged.
    """
    params = evidence.params
    if claim.needs == "published" and not evidence.published:
        reason = f"needs networks of the published size and the {PUBLISHED_IMAGES:,} {PUBLISHED_DATA_SET} images (preset paper)"
        return Decision(claim, "not testable at this scale", (), reason)
    try:
        chosen = [chosen_cells(test.cells, params) if test.cells else [] for test in claim.tests]
        measured = [evidence.measure(test.measure, those) for test, those in zip(claim.tests, chosen, strict=True)]
    except NotTestableError as reason:
        return Decision(claim, "not testable at this scale", (), str(reason))
    labelled = [
        COMPARISONS[test.compare]([short_name(cell, params) for cell in those] or list(one.labels))
        for test, those, one in zip(claim.tests, chosen, measured, strict=True)
    ]
    for test, (labels, _) in zip(claim.tests, labelled, strict=True):
        if not labels:
            return Decision(claim, "not testable at this scale", (), f"the grid of this preset has too few {test.cells} for {test.compare}")
    number = sum(len(labels) for labels, _ in labelled)
    found: list[Comparison] = []
    for test, one, (labels, matrix) in zip(claim.tests, measured, labelled, strict=True):
        values, (shown_ends, wide_ends) = intervals(one, matrix, (CONFIDENCE, 1 - (1 - CONFIDENCE) / number))
        ends = np.stack([values, *shown_ends, *wide_ends], axis=1).tolist()
        for label, (value, low, high, lowest, highest) in zip(labels, ends, strict=True):
            found.append(Comparison(test, label, value, low, high, _verdict(test.accept, (low, high), (lowest, highest))))
    verdicts = {one.verdict for one in found}
    overall: Verdict = "does not hold" if "does not hold" in verdicts else "undecided" if "undecided" in verdicts else "holds"
    return Decision(claim, overall, tuple(found), "; ".join(dict.fromkeys(one.basis for one in measured)))


def _verdict(accept: Accept, interval: tuple[float, float], wide: tuple[float, float]) -> Verdict:
    """Of one comparison with this interval, and a wider one that must miss altogether to refute it."""
    least, most = accept.range
    closed = accept.within is not None  # of "above 0" 0 itself is no part
    if (least <= interval[0] and interval[1] <= most) if closed else (least < interval[0] and interval[1] < most):
        return "holds"
    misses = wide[0] > most or wide[1] < least
    return "does not hold" if misses or interval[0] == interval[1] else "undecided"


def load(path: Path) -> list[Claim]:
    """Read and check claims.yaml.

    Raises:
        UserError: the file is missing, no YAML list, or an entry is not accepted.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); accepted: a YAML list of claims") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, list) or not document:
        raise UserError(f"{path}: holds no list; accepted: a YAML list of claims")
    found: list[Claim] = []
    for number, entry in enumerate(document, start=1):
        try:
            found.append(Claim.model_validate(entry))
        except ValidationError as error:
            name = entry.get("id", f"entry {number}") if isinstance(entry, dict) else f"entry {number}"
            first = error.errors()[0]
            raise UserError(f"{path}: {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    ids = [claim.id for claim in found]
    if len(set(ids)) < len(ids):
        raise UserError(f"{path}: an id is given twice; accepted: distinct ids")
    return found


def write_claims(params: Params, preset: str, results: Path, path: Path) -> list[Decision]:
    """Decide all claims and write claims/claims.csv (a line a comparison) and claims/claims.md (a line a claim) below `results`.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.
        path: claims.yaml.

    Raises:
        UserError: claims.yaml is wrong, or a result is missing or damaged.
    """
    source = Results(params, preset, results)
    evidence = Evidence(source)
    decisions = [decide(claim, evidence) for claim in load(path)]
    write_table(results / CLAIMS, [row for decision in decisions for row in _csv_rows(decision)])
    with atomic_write(results / CLAIMS_PAGE) as temporary:
        temporary.write_text(_markdown(decisions, source), encoding="utf-8")
    return decisions


def _csv_rows(decision: Decision) -> list[dict[str, Any]]:
    claim = decision.claim
    head = {"id": claim.id, "verdict": decision.verdict, "where": claim.where, "claim": claim.claim, "basis": decision.basis}
    empty = dict.fromkeys(("measure", "comparison", "value", "low", "high", "accepted", "comparison_verdict"), "")
    rows = [
        {
            "measure": one.test.measure,
            "comparison": one.label,
            "value": f"{one.value:.6g}",
            "low": f"{one.low:.6g}",
            "high": f"{one.high:.6g}",
            "accepted": str(one.test.accept),
            "comparison_verdict": one.verdict,
        }
        for one in decision.comparisons
    ]
    return [head | row for row in rows or [empty]]


def shown(comparison: Comparison) -> str:
    """A comparison as text: what, value, interval, what is accepted."""
    interval = "" if comparison.low == comparison.high else f" [{comparison.low:.3g}, {comparison.high:.3g}]"
    return f"{comparison.label}: {comparison.value:.3g}{interval}, accepted {comparison.test.accept}"


def decisive(decision: Decision) -> Comparison | None:
    """The comparison that shows best why the verdict is what it is: the worst one, nearest to what is accepted among equals."""
    order: list[Verdict] = ["does not hold", "undecided", "holds"]

    def margin(one: Comparison) -> tuple[int, float]:
        least, most = one.test.accept.range
        return order.index(one.verdict), min(one.low - least, most - one.high) / (one.high - one.low + 1e-12)

    return min(decision.comparisons, key=margin, default=None)


def counts(decisions: Sequence[Decision]) -> dict[str, int]:
    """How many claims got each verdict."""
    verdicts: tuple[Verdict, ...] = ("holds", "does not hold", "undecided", "not testable at this scale")
    return {verdict: sum(decision.verdict == verdict for decision in decisions) for verdict in verdicts}


def _markdown(decisions: Sequence[Decision], source: Results) -> str:
    lines = [
        f"# The paper's claims, preset {source.preset}",
        "",
        ", ".join(f"{number} {verdict}" for verdict, number in counts(decisions).items()) + f". Data: {source.data_set()}.",
        "",
        "| | claim | verdict | decided by | basis |",
        "| --- | --- | --- | --- | --- |",
    ]
    for decision in decisions:
        one = decisive(decision)
        text = f"{one.test.measure}, {shown(one)}" if one else ""
        more = len(decision.comparisons) - 1
        text += f"; and {more} more" if more > 0 else ""
        cells_of_row = (decision.claim.id, decision.claim.claim, f"**{decision.verdict}**", text, decision.basis)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells_of_row) + " |")
    lines += [
        "",
        "A comparison is shown with its 95 % interval, from draws of test images and training seeds, the same for all its models. A claim",
        "holds if all its intervals lie within what is accepted; it does not hold if one lies outside (Bonferroni over its comparisons).",
        "Of several the least favourable is shown; all are in claims.csv. How each claim is read: claims.yaml.",
    ]
    notes = [f"- {decision.claim.id}: {decision.claim.note}" for decision in decisions if decision.claim.note]
    return "\n".join([*lines, "", *notes]) + "\n"
