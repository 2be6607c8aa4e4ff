"""The step `figures`: draw figures of the paper from the small files of a preset, each with its run record beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agave import figures
from agave.config import Params
from agave.provenance.run_record import recording


def inputs(name: str, params: Params) -> list[str]:
    """List the files that a figure is drawn from, relative to results/<preset>/."""
    return figures.inputs(name, params)


def options(name: str, params: Params) -> dict[str, Any]:
    """Return the parameters that a figure depends on: those of its look, and those that its labels and footnote name."""
    read: dict[str, Any] = {"figures": params.figures.model_dump()}
    if name == "2":
        read["model"] = params.model.model_dump()
        read["prepare"] = params.prepare.model_dump(include={"image_size"})
        read["grid"] = params.grid.model_dump(include={"levels", "resolutions"})
    else:
        read["cells"] = [cell.name for cell in figures.figure_cells(name, params)]
        read["grid"] = params.grid.model_dump(include={"seeds"})
    if name in figures.IMAGE_FIGURES:
        read["sample"] = params.sample.model_dump(include={"seed", "completion_rows", "temperature"})
    return read


def run(names: Sequence[str], params: Params, preset: str, results: Path) -> None:
    """Draw figures one after the other in this process, so that the plotting libraries are loaded once.

    Each figure is written as `agave.figures.outputs` says, with its run record figures/figureNAME.json.

    Args:
        names: some of `agave.figures.NAMES`; none: all of them.
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: there is no such figure, or an input is missing or damaged; the message names the command that makes it.
    """
    due = {name: inputs(name, params) for name in names or figures.NAMES}
    for name, paths in due.items():
        read = {path: results / path for path in paths}
        with recording("figures", options(name, params), read, results / f"figures/figure{name}.json") as record:
            figures.draw(name, params, preset, results)
            record.outputs += [results / path for path in figures.outputs(name)]
