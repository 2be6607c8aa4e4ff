"""The verdicts of claims/claims.csv, as the decisions that `agave claims` made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agave.claims import Comparison, Decision, load
from agave.claims.language import Claim
from agave.results import CLAIMS, Results
from agave.schemas import CLAIMS_SCHEMA

if TYPE_CHECKING:
    import pandas as pd


def read_decisions(source: Results, path: Path) -> list[Decision]:
    """Read the verdict on each claim.

    Args:
        source: the results of a preset.
        path: claims.yaml, which says how each claim is read.

    Returns:
        The decisions, in the order of claims.yaml.

    Raises:
        UserError: a file is missing, or claims/claims.csv was made with another claims.yaml.
    """
    table = source.table(CLAIMS, CLAIMS_SCHEMA)
    return [_decision(source, claim, table[table["id"] == claim.id]) for claim in load(path)]


def _decision(source: Results, claim: Claim, rows: pd.DataFrame) -> Decision:
    if rows.empty or rows["claim"].ne(claim.claim).any():
        raise source.wrong(CLAIMS, f"has no verdict on the claim {claim.id} of claims.yaml")
    tests = {(test.measure, str(test.accept)): test for test in claim.tests}
    comparisons = []
    for row in rows[rows["measure"].notna()].to_dict("records"):
        test = tests.get((row["measure"], row["accepted"]))
        if test is None:
            raise source.wrong(CLAIMS, f"has a comparison of {claim.id}, {row['measure']}, that claims.yaml does not name")
        comparisons.append(Comparison(test, row["comparison"], row["value"], row["low"], row["high"], row["comparison_verdict"]))
    first = rows.iloc[0]
    return Decision(claim, first["verdict"], tuple(comparisons), first["basis"])
