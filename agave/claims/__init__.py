"""The claims of the paper, each decided by intervals over test images and training seeds.

claims.yaml holds the test of each claim; `decide` judges it by what `evidence` measures.
"""

from __future__ import annotations

from pathlib import Path

from agave.claims.decide import Comparison, Decision, decide
from agave.claims.evidence import Evidence
from agave.claims.language import load
from agave.claims.page import as_table, comparison_text, counts, decisive, page_text
from agave.claims.power import power_rows
from agave.config import Params
from agave.csv_tables import make_table, write_table
from agave.files import atomic_write
from agave.results import CLAIMS, CLAIMS_PAGE, POWER, Results
from agave.schemas import POWER_SCHEMA

__all__ = ["Comparison", "Decision", "comparison_text", "counts", "decide", "decisive", "load", "write_claims"]


def write_claims(params: Params, preset: str, results: Path, path: Path) -> list[Decision]:
    """Decide all claims and write claims/claims.csv (one row per comparison), power.csv and claims.md (one row per claim) below `results`.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.
        path: claims.yaml.

    Returns:
        The decisions, in the order of claims.yaml.

    Raises:
        UserError: claims.yaml is wrong, or a result is missing or damaged.
    """
    source = Results(params, preset, results)
    evidence = Evidence(source)
    decisions = [decide(claim, evidence) for claim in load(path)]
    power = make_table(power_rows(evidence), POWER_SCHEMA)
    write_table(results / CLAIMS, as_table(decisions))
    write_table(results / POWER, power)
    with atomic_write(results / CLAIMS_PAGE) as temporary:
        temporary.write_text(page_text(decisions, power, preset, source.data_set()), encoding="utf-8")
    return decisions
