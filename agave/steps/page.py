"""The step `page`: the paper, reproduced, as one self-contained html file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agave.config import Params
from agave.page import files
from agave.page.document import write_page
from agave.provenance.run_record import recording


def inputs(params: Params) -> list[str]:
    """List the files that the step reads beside claims.yaml, relative to results/<preset>/."""
    return files.inputs(params)


def options(params: Params) -> dict[str, Any]:
    """Return the parameters that the step reads: those that the labels of figures name, and those that differ from the paper."""
    return {
        "grid": params.grid.model_dump(),
        "model": params.model.model_dump(),
        "prepare": params.prepare.model_dump(exclude={"path", "seed", "photos"}),
        "pretrain": params.pretrain.model_dump(include={"vae_kl_weight"}),
        "systems": list(params.table1.systems),
        "evaluate": params.evaluate.model_dump(include={"iwae_samples", "iwae_images"}),
        "sample": params.sample.model_dump(include={"seed", "completion_rows"}),
    }


def run(params: Params, preset: str, results: Path, path: Path) -> Path:
    """Write the page and its run record page/run.json.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.
        path: claims.yaml.

    Returns:
        The path of the page.

    Raises:
        UserError: claims.yaml is wrong, or a result is missing or damaged; the message names the command that makes it.
    """
    read = {"claims.yaml": path} | {name: results / name for name in inputs(params)}
    with recording("page", options(params), read, results / files.RECORD) as record:
        write_page(params, preset, results, path, results)
        record.outputs.append(results / files.PAGE)
    return results / files.PAGE
