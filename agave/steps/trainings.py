"""The step `trainings`: collect all training histories and run records in two small files that are kept in git.

The folders of the trainings themselves are kept with the weights in DVC's cache.
"""

from __future__ import annotations

import json
from pathlib import Path

from agave.config import Params
from agave.csv_tables import write_table
from agave.files import atomic_write
from agave.provenance.run_record import RunRecord, recording
from agave.results import HISTORIES, TRAINING_RECORDS, Results, history_paths
from agave.schemas import HISTORIES_SCHEMA, HISTORY_SCHEMA


def inputs(params: Params) -> list[str]:
    """Return the files that `gather` reads, relative to results/<preset>/."""
    histories = list(history_paths(params).values())
    return [*histories, *map(_record_of, histories)]


def gather(params: Params, preset: str, results: Path) -> None:
    """Write trainings/history.csv, trainings/runs.jsonl and trainings/run.json below `results`.

    The numbers of the histories are rounded to six digits. Each line of runs.jsonl is the run record of a training, with the folder
    of the training as its first entry.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: a history or record is missing or damaged; the message names the command that makes it.
    """
    import pandas as pd

    source = Results(params, preset, results)
    with recording("trainings", {}, {path: results / path for path in inputs(params)}, results / "trainings/run.json") as run:
        histories: list[pd.DataFrame] = []
        lines: list[str] = []
        for (stage, model, seed), path in history_paths(params).items():
            history = source.table(path, HISTORY_SCHEMA)[list(HISTORY_SCHEMA)]
            rounded = history.apply(lambda column: column.map("{:.6g}".format, na_action="ignore"))
            histories.append(rounded.assign(stage=stage, model=model, seed=seed)[list(HISTORIES_SCHEMA)])
            record = RunRecord.read(source, _record_of(path))
            lines.append(json.dumps({"folder": record.folder} | record.as_json()) + "\n")
        write_table(results / HISTORIES, pd.concat(histories))
        with atomic_write(results / TRAINING_RECORDS) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        run.outputs += [results / HISTORIES, results / TRAINING_RECORDS]


def _record_of(history: str) -> str:
    return str(Path(history).with_name("run.json"))
