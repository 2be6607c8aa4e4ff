"""What git keeps of the trainings, whose folders lie with the weights in DVC's cache: all histories and all run records, a file each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agave.config import Params
from agave.csv_tables import write_table
from agave.files import atomic_write
from agave.results import HISTORIES, HISTORY_COLUMNS, TRAINING_RECORDS, Results, history_paths


def inputs(params: Params) -> list[str]:
    """The files that `gather` reads, relative to results/<preset>/."""
    histories = list(history_paths(params).values())
    return [*histories, *map(_record_of, histories)]


def gather(params: Params, preset: str, results: Path) -> None:
    """Write trainings/history.csv and trainings/runs.jsonl below `results`.

    The numbers of the histories are rounded to six digits; a line of runs.jsonl is the run.json of a training, after the folder
    where it lies.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: a history or record is missing or damaged; the message names the command that makes it.
    """
    source = Results(params, preset, results)
    rows: list[dict[str, str]] = []
    lines: list[str] = []
    for (stage, model, seed), path in history_paths(params).items():
        for row in source.rows(path, HISTORY_COLUMNS):
            numbers = {column: row[column] and f"{source.number(path, row, column):.6g}" for column in HISTORY_COLUMNS}
            rows.append({"stage": stage, "model": model, "seed": str(seed)} | numbers)
        lines.append(json.dumps({"folder": str(Path(path).parent)} | _read(source, _record_of(path))) + "\n")
    write_table(results / HISTORIES, rows)
    with atomic_write(results / TRAINING_RECORDS) as temporary:
        temporary.write_text("".join(lines))


def _record_of(history: str) -> str:
    return str(Path(history).with_name("run.json"))


def _read(source: Results, path: str) -> dict[str, Any]:
    try:
        record = json.loads((source.folder / path).read_text())
    except (FileNotFoundError, ValueError) as error:
        raise source.wrong(path, "missing" if isinstance(error, FileNotFoundError) else "is not JSON") from None
    if not isinstance(record, dict):
        raise source.wrong(path, "is no run record")
    return record
