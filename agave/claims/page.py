"""The verdicts as claims.csv, one row per comparison, and as claims.md, one row per claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agave.claims.decide import VERDICTS, Comparison, Decision, Verdict
from agave.csv_tables import make_table
from agave.schemas import CLAIMS_SCHEMA

if TYPE_CHECKING:
    import pandas as pd


def as_table(decisions: Sequence[Decision]) -> pd.DataFrame:
    """Return claims/claims.csv: one row per comparison, or one for a claim that is not testable; numbers have six digits."""
    rows: list[dict[str, Any]] = []
    for decision in decisions:
        claim = decision.claim
        head = {"id": claim.id, "verdict": decision.verdict, "where": claim.where, "claim": claim.claim, "basis": decision.basis}
        comparisons: list[dict[str, Any]] = [
            {
                "measure": one.test.measure,
                "comparison": one.label,
                "value": float(f"{one.value:.6g}"),
                "low": float(f"{one.low:.6g}"),
                "high": float(f"{one.high:.6g}"),
                "accepted": str(one.test.accept),
                "comparison_verdict": one.verdict,
            }
            for one in decision.comparisons
        ]
        rows += [head | row for row in comparisons or [{}]]
    return make_table(rows, CLAIMS_SCHEMA)


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison as text: label, value, interval and accepted values."""
    interval = "" if comparison.low == comparison.high else f" [{comparison.low:.3g}, {comparison.high:.3g}]"
    return f"{comparison.label}: {comparison.value:.3g}{interval}, accepted {comparison.test.accept}"


def decisive(decision: Decision) -> Comparison | None:
    """Return the comparison that best explains the verdict: the least favourable one, and among equals the one nearest to a limit."""
    order: list[Verdict] = ["does not hold", "undecided", "holds"]

    def margin(one: Comparison) -> tuple[int, float]:
        least, most = one.test.accept.range
        return order.index(one.verdict), min(one.low - least, most - one.high) / (one.high - one.low + 1e-12)

    return min(decision.comparisons, key=margin, default=None)


def counts(decisions: Sequence[Decision]) -> dict[str, int]:
    """Return how many claims got each verdict."""
    return {verdict: sum(decision.verdict == verdict for decision in decisions) for verdict in VERDICTS}


def page_text(decisions: Sequence[Decision], power: pd.DataFrame, preset: str, data_set: str) -> str:
    """Return claims/claims.md."""
    import pandas as pd

    rows = []
    for decision in decisions:
        one, more = decisive(decision), len(decision.comparisons) - 1
        text = f"{one.test.measure}, {comparison_text(one)}" if one else ""
        text += f"; and {more} more" if more > 0 else ""
        row = (decision.claim.id, decision.claim.claim, f"**{decision.verdict}**", text, decision.basis)
        rows.append([cell.replace("|", "\\|") for cell in row])
    table = pd.DataFrame(rows, columns=["", "claim", "verdict", "decided by", "basis"])
    notes = [f"- {decision.claim.id}: {decision.claim.note}" for decision in decisions if decision.claim.note]
    lines = [
        f"# The paper's claims, preset {preset}",
        "",
        ", ".join(f"{number} {verdict}" for verdict, number in counts(decisions).items()) + f". Data: {data_set}.",
        "",
        table.to_markdown(index=False, disable_numparse=True),
        "",
        "A comparison is shown with its 95 % interval, from draws of test images and training seeds, the same for all its models. A claim",
        "holds if all its intervals lie within what is accepted; it does not hold if one lies outside (Bonferroni over its comparisons).",
        "Of several the least favourable is shown; all are in claims.csv. How each claim is read: claims.yaml.",
        "",
        *notes,
        "",
        "## Energy coefficients",
        "",
        power.to_markdown(index=False, floatfmt=".4f"),
        "",
        "How far samples are apart from test images (`sample_energy`): 0 for the same distribution, at most 1. The first two rows show",
        "what the statistic can tell apart: half of the test images against the other half, as it is and with the squares of each coarse",
        f"image shuffled. {_power_text(power)} Energy distance: Székely & Rizzo (2013).",
    ]
    return "\n".join(lines) + "\n"


def _power_text(power: pd.DataFrame) -> str:
    """Say whether the statistic tells shuffled images from whole ones with as many images as there are."""
    same, shuffled = power.iloc[0], power.iloc[1]
    if shuffled["low"] > same["high"]:
        return "Their intervals are apart: it can."
    return f"Their intervals overlap: {same['images']} images are too few for it."
