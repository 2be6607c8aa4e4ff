"""The step `records`: sum up the cost of every step from the run records, and write the SHA-256 of every small result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agave.config import Params
from agave.csv_tables import write_table
from agave.files import atomic_write
from agave.page.files import RECORD
from agave.provenance.checksums import CHECKSUMS, write_checksums
from agave.provenance.lineage import RECORDS_RECORD, read_all, small_files
from agave.provenance.run_record import COMPUTE, Cost, RunRecord, recording
from agave.results import Results
from agave.steps import STEPS

MARKDOWN = "records/compute.md"


def inputs(params: Params) -> list[str]:
    """Return the files that `write_records` reads, relative to results/<preset>/: all small results, which are in git."""
    return small_files(params)


def write_records(params: Params, preset: str, results: Path) -> None:
    """Write records/compute.csv and compute.md (the cost of each step), records/SHA256SUMS and records/run.json below `results`.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: a result is missing or damaged; the message names the command that makes it.
    """
    source, read = Results(params, preset, results), inputs(params)
    with recording("records", {}, {path: results / path for path in read}, results / RECORDS_RECORD) as run:
        rows = list(compute_rows(read_all(source, but=[RECORDS_RECORD, RECORD])))
        write_table(results / COMPUTE, rows)
        with atomic_write(results / MARKDOWN) as temporary:
            temporary.write_text(_markdown(rows, preset), encoding="utf-8")
        write_checksums(source, [*read, COMPUTE, MARKDOWN])
        run.outputs += [results / path for path in (COMPUTE, MARKDOWN, CHECKSUMS)]


def compute_rows(records: Sequence[RunRecord]) -> Iterator[dict[str, Any]]:
    """Sum up the cost of jobs: one row per step, in data-flow order, and one for all.

    The cost of a job that joins parts includes that of the parts.
    """
    jobs: dict[str, list[Cost]] = {step: [] for step in STEPS}
    for record in records:
        jobs[record.step] += [record.cost, *record.parts.values()]
    for step, costs in (jobs | {"all": [cost for some in jobs.values() for cost in some]}).items():
        if costs:
            yield _row(step, costs)


def _row(step: str, costs: Sequence[Cost]) -> dict[str, Any]:
    return {
        "step": step,
        "jobs": len(costs),
        "wall_hours": sum(cost.wall_seconds for cost in costs) / 3600,
        "processor_hours": sum(cost.processor_seconds for cost in costs) / 3600,
        "gpu_hours": sum(cost.wall_seconds * cost.devices for cost in costs if (cost.device or "").startswith("cuda")) / 3600,
        "longest_job_minutes": max(cost.wall_seconds for cost in costs) / 60,
        "peak_memory_mib": max(cost.peak_memory_mib for cost in costs),
    }


def _markdown(rows: Sequence[dict[str, Any]], preset: str) -> str:
    header = ["step", "jobs", "wall time, h", "CPU time, h", "GPU time, h", "longest job, min", "peak memory, MiB"]
    lines = [header, ["---", *["---:"] * 6]]
    for row in rows:
        hours = [f"{row[key]:.3f}" for key in ("wall_hours", "processor_hours", "gpu_hours")]
        lines.append([row["step"], str(row["jobs"]), *hours, f"{row['longest_job_minutes']:.1f}", f"{row['peak_memory_mib']:.0f}"])
    notes = [
        f"Preset {preset}, from the run record beside each result: time inside the step, without the start of Python and queues.",
        "Wall time is summed over jobs, several of which ran side by side; a resumed training counts from its last resumption.",
    ]
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", *[f"{note}  " for note in notes]]) + "\n"
