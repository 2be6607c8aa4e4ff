"""The step `figures`: draw figures of the paper from the small files of a preset, each with its run record beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agave import figures
from agave.config import Params
from agave.provenance.run_record import Record


def draw_figures(names: Sequence[str], params: Params, preset: str, results: Path) -> None:
    """Draw figures one after the other in this process, so that the plotting libraries are loaded once.

    Each figure reads `agave.figures.inputs`, and is written by `agave.figures.draw` as `agave.figures.outputs`, with its run record
    figures/figureNAME.json.

    Args:
        names: some of `agave.figures.NAMES`; none: all of them.
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: there is no such figure, or an input is missing or damaged; the message names the command that makes it.
    """
    due = {name: figures.inputs(name, params) for name in names or figures.NAMES}
    for name, paths in due.items():
        read = {path: results / path for path in paths if (results / path).exists()}  # the figure itself says what is missing
        record = Record("figures", {"figures": params.figures.model_dump()}, read)
        figures.draw(name, params, preset, results)
        record.write(results / f"figures/figure{name}.json", [results / path for path in figures.outputs(name)])
