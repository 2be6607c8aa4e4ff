"""The step `tables`: gather all bounds of the grid in one file, and write Table 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agave import tables
from agave.config import Params
from agave.provenance.run_record import recording


def inputs(params: Params) -> list[str]:
    """List the files that the step reads, relative to results/<preset>/."""
    return tables.inputs(params)


def options(params: Params) -> dict[str, Any]:
    """Return the parameters that the step reads."""
    return {
        "grid": params.grid.model_dump(),
        "prepare": params.prepare.model_dump(include={"image_size"}),
        "codec": params.codec.model_dump(include={"cells", "others"}),
        "pretrain": params.pretrain.model_dump(include={"vae_kl_weight"}),
    }


def run(params: Params, preset: str, results: Path) -> None:
    """Write the tables and the run record tables/run.json.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: a result is missing or damaged.
    """
    read = {path: results / path for path in inputs(params)}
    with recording("tables", options(params), read, results / "tables/run.json") as record:
        tables.write_tables(params, preset, results)
        record.outputs += [results / "tables" / name for name in tables.FILES]
