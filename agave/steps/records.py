"""The end of the workflow: what every step cost, from the run records, and the SHA-256 of every small result, for `agave verify`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agave import figures, grid, tables
from agave.config import Params
from agave.csv_tables import write_table
from agave.files import atomic_write, sha256
from agave.results import (
    CLAIMS,
    CLAIMS_PAGE,
    HISTORIES,
    TRAINING_RECORDS,
    Results,
    bound_path,
    growth_path,
    iwae_arrays_path,
    iwae_path,
    per_image_path,
    samples_path,
)

COMPUTE = "records/compute.csv"
MARKDOWN = "records/compute.md"
CHECKSUMS = "records/SHA256SUMS"

Record = dict[str, Any]


def record_paths(params: Params) -> dict[str, list[str]]:
    """The run records in git, {step: paths relative to results/<preset>/}; those of the trainings are lines of trainings/runs.jsonl."""
    seeds = params.grid.seeds
    bounds = [bound_path(cell, seed) for cell in grid.all_cells(params) for seed in seeds]
    sampled = [iwae_path(cell, seed) for cell in grid.table_cells(params) for seed in seeds]
    drawn = [samples_path(cell, seeds[0]) for cell in grid.all_cells(params)]
    beside = {"evaluate": bounds + sampled, "sample": drawn}
    return {
        "prepare": ["prepare/run.json"],
        **{step: [str(Path(path).with_suffix(".json")) for path in paths] for step, paths in beside.items()},
        "tables": ["tables/run.json"],
        "figures": [f"figures/figure{name}.json" for name in figures.NAMES],
        "claims": ["claims/run.json"],
    }


def inputs(params: Params) -> list[str]:
    """The small results of a preset, all of which lie in git, relative to results/<preset>/."""
    seeds = params.grid.seeds
    evaluated = [path(cell, seed) for cell in grid.all_cells(params) for seed in seeds for path in (bound_path, per_image_path)]
    sampled = [
        path(cell, seed) for cell in grid.table_cells(params) for seed in seeds for path in (iwae_path, growth_path, iwae_arrays_path)
    ]
    drawn = [samples_path(cell, seeds[0]) for cell in grid.all_cells(params)]
    pictures = [path for name in figures.NAMES for path in figures.outputs(name)]
    written = [*(f"tables/{name}" for name in tables.FILES), *pictures, CLAIMS, CLAIMS_PAGE]
    kept = ["prepare/manifest.json", HISTORIES, TRAINING_RECORDS]
    return sorted({*kept, *evaluated, *sampled, *drawn, *written, *(path for paths in record_paths(params).values() for path in paths)})


def write_records(params: Params, preset: str, results: Path) -> None:
    """Write records/compute.csv and compute.md, what each step cost, and records/SHA256SUMS, below `results`.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: a result is missing or damaged; the message names the command that makes it.
    """
    source = Results(params, preset, results)
    rows = _compute(read_all(source))
    write_table(results / COMPUTE, rows)
    with atomic_write(results / MARKDOWN) as temporary:
        temporary.write_text(_markdown(rows, preset))
    lines = []
    for path in [*inputs(params), COMPUTE, MARKDOWN]:
        if not (results / path).is_file():
            raise source.wrong(path, "missing")
        lines.append(f"{sha256(results / path)}  {path}\n")
    with atomic_write(results / CHECKSUMS) as temporary:
        temporary.write_text("".join(lines))


def read_all(source: Results) -> dict[str, Record]:
    """All run records of a preset, {path or, for a training, its folder: record}.

    Raises:
        UserError: one is missing or damaged.
    """
    found: dict[str, Record] = {}
    for paths in record_paths(source.params).values():
        found |= {path: _parsed(source, path, _text(source, path)) for path in paths}
    for line in _text(source, TRAINING_RECORDS).splitlines():
        record = _parsed(source, TRAINING_RECORDS, line)
        found[record["folder"]] = record
    return found


def _text(source: Results, path: str) -> str:
    try:
        return (source.folder / path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise source.wrong(path, "missing") from None
    except UnicodeDecodeError:
        raise source.wrong(path, "is no text") from None


def _parsed(source: Results, path: str, text: str) -> Record:
    try:
        record: Record = json.loads(text)
        return record | {"step": record["step"], "wall_seconds": float(record["wall_seconds"]), "outputs": dict(record["outputs"])}
    except (ValueError, KeyError, TypeError):
        raise source.wrong(path, "is no run record") from None


def _compute(records: dict[str, Record]) -> list[dict[str, Any]]:
    """A row a step and one for all; a job that joins parts counts with what they cost."""
    jobs: dict[str, list[Record]] = {}
    for record in records.values():
        jobs.setdefault(record["step"], []).extend([record, *record.get("parts", {}).values()])
    order = ["prepare", "pretrain", "joint", "evaluate", "sample", "tables", "figures", "claims"]
    rows = [_row(step, jobs[step]) for step in sorted(jobs, key=order.index)]
    return [*rows, _row("all", [job for some in jobs.values() for job in some])]


def _row(step: str, jobs: Sequence[Record]) -> dict[str, Any]:
    on_gpus = [job for job in jobs if str(job.get("device") or "").startswith("cuda")]
    return {
        "step": step,
        "jobs": len(jobs),
        "wall_hours": sum(job["wall_seconds"] for job in jobs) / 3600,
        "processor_hours": sum(job["processor_seconds"] for job in jobs) / 3600,
        "gpu_hours": sum(job["wall_seconds"] * job.get("devices", 1) for job in on_gpus) / 3600,
        "longest_job_minutes": max(job["wall_seconds"] for job in jobs) / 60,
        "peak_memory_mib": max(job["peak_memory_mib"] for job in jobs),
    }


def _markdown(rows: Sequence[dict[str, Any]], preset: str) -> str:
    header = ["step", "jobs", "wall time, h", "processor time, h", "GPU time, h", "longest job, min", "peak memory, MiB"]
    lines = [header, ["---", *["---:"] * 6]]
    for row in rows:
        hours = [f"{row[key]:.3f}" for key in ("wall_hours", "processor_hours", "gpu_hours")]
        lines.append([row["step"], str(row["jobs"]), *hours, f"{row['longest_job_minutes']:.1f}", f"{row['peak_memory_mib']:.0f}"])
    notes = [
        f"Preset {preset}, from the run record beside each result: time inside the step, without the start of Python and queues.",
        "Wall time is summed over jobs, several of which ran side by side; a resumed training counts from its last resumption.",
    ]
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", *[f"{note}  " for note in notes]]) + "\n"
