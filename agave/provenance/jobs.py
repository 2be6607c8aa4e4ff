"""The run records of a preset, read back: every job that made its results, and whether they fit together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from agave.config import Params
from agave.errors import UserError
from agave.files import sha256
from agave.results import TRAINING_RECORDS, Results, history_paths
from agave.steps.records import record_paths

SHIPPED = ("prepare", "trainings", "evaluate", "sample", "tables", "figures", "claims", "records")
KEYS = ("step", "command", "options", "inputs", "outputs", "packages", "machine", "git", "started", "wall_seconds")


@dataclass(frozen=True)
class Job:
    """One job and its run record.

    Attributes:
        name: the path of its record without the ending, below results/<preset>/.
        folder: where its outputs lie, below results/<preset>/.
        record: what it wrote (agave/provenance.py).
        inputs: {name: (path in the checkout, or "" for a file that lay outside of it, SHA-256)}.
    """

    name: str
    folder: str
    record: dict[str, Any]
    inputs: dict[str, tuple[str, str]]

    @property
    def step(self) -> str:
        """The step of the workflow, for example "joint"."""
        return str(self.record["step"])

    @property
    def started(self) -> datetime:
        """When it began, with its time zone."""
        return datetime.fromisoformat(self.record["started"])

    @property
    def ended(self) -> datetime:
        """When it had written its results."""
        return self.started + timedelta(seconds=float(self.record["wall_seconds"]))

    def outputs(self) -> dict[str, str]:
        """The files that it wrote, below results/<preset>/, with their SHA-256."""
        return {f"{self.folder}/{name}": digest for name, digest in self.record["outputs"].items()}


def read(params: Params, preset: str, folder: Path) -> list[Job]:
    """All run records of a preset, in the order in which the jobs began.

    Args:
        params: the parameters of the preset.
        preset: its name.
        folder: results/<preset>.

    Raises:
        UserError: a record is missing or damaged, or a result is not the file that the records speak of; the message names the
            command that mends it.
    """
    results = Results(params, preset, folder)
    jobs = _trainings(results)
    for path in small_files(folder):
        if path.endswith(".json") and (record := _record(results, path)) is not None:
            jobs.append(_job(results, path, str(Path(path).parent), record))
    found = {job.name for job in jobs}
    for path in _expected(params):
        if path.removesuffix(".json") not in found:
            if path.startswith(("pretrain/", "joint/")) and (folder / path).exists():
                raise _ungathered(results, f"holds no line for {path}")
            raise results.wrong(path, "there is no such run record")
    jobs.sort(key=lambda job: (job.started, job.name))
    _check(results, jobs)
    return jobs


def small_files(folder: Path) -> list[str]:
    """What git keeps of results/<preset>, relative to it, sorted: neither prepared images, weights nor parts of bounds."""
    paths = [path for step in SHIPPED for path in (folder / step).rglob("*") if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths if path.suffix != ".npy"]
    return sorted(name for name in names if "/." not in name and "/iwae-" not in name)


def _expected(params: Params) -> list[str]:
    trained = [str(Path(path).with_name("run.json")) for path in history_paths(params).values()]
    return trained + [path for paths in record_paths(params).values() for path in paths]


def _trainings(results: Results) -> list[Job]:
    try:
        lines = (results.folder / TRAINING_RECORDS).read_text().splitlines()
    except FileNotFoundError:
        raise _ungathered(results, "missing") from None
    jobs = []
    for line in lines:
        record = _parsed(results, TRAINING_RECORDS, line)
        if not _is_record(record) or not isinstance(record.get("folder"), str):
            raise results.wrong(TRAINING_RECORDS, "has a line that is no run record")
        jobs.append(_job(results, f"{record['folder']}/run.json", record["folder"], record))
    return jobs


def _ungathered(results: Results, problem: str) -> UserError:
    command = f"snakemake trainings --cores all --config preset={results.preset}"
    return UserError(f"{results.folder / TRAINING_RECORDS}: {problem}; gather the records of the trainings with: {command}")


def _parsed(results: Results, path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise results.wrong(path, "is not JSON") from None


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and all(key in value for key in KEYS)


def _record(results: Results, path: str) -> dict[str, Any] | None:
    """The run record in a json file; None for other json files, as prepare/manifest.json."""
    value = _parsed(results, path, (results.folder / path).read_text())
    return value if _is_record(value) else None


def _job(results: Results, path: str, folder: str, record: dict[str, Any]) -> Job:
    inputs = {}
    for name, given in record["inputs"].items():
        file = "" if given["file"].startswith("sha256:") else Path(given["file"]).as_posix()
        if Path(file).is_relative_to(results.folder):  # the folder may have another name than the preset gives it
            file = f"results/{results.preset}/{Path(file).relative_to(results.folder).as_posix()}"
        if Path(file).is_absolute() or ".." in Path(file).parts:
            file = ""
        inputs[name] = (file, given["sha256"])
    return Job(path.removesuffix(".json"), folder, record, inputs)


def _check(results: Results, jobs: list[Job]) -> None:
    """Every file is the one that its record names, and every job read the files that the others wrote."""
    small = {path: sha256(results.folder / path) for path in small_files(results.folder)}
    known = {path: digest for job in jobs for path, digest in job.outputs().items()}
    for path, digest in known.items():
        if path.split("/")[0] in SHIPPED and not path.endswith(".npy") and small.get(path) != digest:
            raise _stale(results, path, "is not the file that its run record names" if path in small else "missing")
    root = f"results/{results.preset}/"
    for job in jobs:
        for file, digest in job.inputs.values():
            path = file.removeprefix(root)
            if file.startswith(root) and (known | small).get(path, digest) != digest:
                raise _stale(results, next(iter(job.outputs())), f"was made from another {path} than the one at hand")


def _stale(results: Results, path: str, problem: str) -> UserError:
    """Snakemake goes by time stamps and would take the file for finished: --force."""
    return UserError(f"{results.folder / path}: {problem}; make it anew with: {results.command(path)} --force")
