"""The step `claims`: decide each claim of the paper by the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agave.claims import Decision, write_claims
from agave.config import Params
from agave.provenance.run_record import recording
from agave.results import CLAIMS, CLAIMS_PAGE, POWER, claim_inputs


def inputs(params: Params) -> list[str]:
    """List the files that the step reads beside claims.yaml, relative to results/<preset>/."""
    return claim_inputs(params)


def options(params: Params) -> dict[str, Any]:
    """Return the parameters that the step reads: the grid, and those that decide whether models are of the published size."""
    return {
        "grid": params.grid.model_dump(),
        "model": params.model.model_dump(),
        "prepare": params.prepare.model_dump(exclude={"path", "seed", "photos"}),
        "pretrain": params.pretrain.model_dump(include={"vae_kl_weight"}),
        "codec": params.codec.model_dump(include={"cells"}),
        "evaluate": params.evaluate.model_dump(include={"iwae_samples", "iwae_images"}),
    }


def run(params: Params, preset: str, results: Path, path: Path) -> list[Decision]:
    """Decide the claims, and write them with the run record claims/run.json.

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
    read = {"claims.yaml": path} | {name: results / name for name in inputs(params)}
    with recording("claims", options(params), read, results / "claims/run.json") as record:
        decisions = write_claims(params, preset, results, path)
        record.outputs += [results / CLAIMS, results / CLAIMS_PAGE, results / POWER]
    return decisions
