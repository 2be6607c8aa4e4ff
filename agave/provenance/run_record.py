"""The run record beside every result: what made it, from what, where, and how long it took. Only this module writes and reads it."""

from __future__ import annotations

import json
import os
import posixpath
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator

from agave.files import atomic_write, sha256
from agave.provenance import code_digest
from agave.provenance.git import git_state
from agave.provenance.surroundings import arithmetic, explicit_command, machine, packages, portable
from agave.steps import STEPS

if TYPE_CHECKING:
    from agave.results import Results


COMPUTE = "records/compute.csv"
"""The cost of each step, summed up by the step `records`; below results/<preset>/."""


class _Strict(BaseModel):
    """A part of a run record, immutable."""

    model_config = ConfigDict(frozen=True)


class HashedFile(_Strict):
    """A file that a step read.

    Attributes:
        file: its path in the checkout; for a file outside of it "sha256:" and its hash.
        sha256: SHA-256 of its bytes, hexadecimal.
    """

    file: str
    sha256: str


class Cost(_Strict):
    """The cost of a job.

    Attributes:
        device: device on which networks ran, if any did.
        wall_seconds: time from the start of the step to its end.
        processor_seconds: CPU time of the process.
        peak_memory_mib: largest resident memory of the process, MiB.
        devices: number of devices that worked together.
    """

    device: str | None = None
    wall_seconds: float
    processor_seconds: float
    peak_memory_mib: float
    devices: int = 1


class Machine(_Strict):
    """The machine of a job: operating system, architecture and model of the CPU, version of Python."""

    system: str
    processor: str
    python: str
    cpu: str | None = None


class Git(_Strict):
    """The state of the code: commit and whether it was edited since; None outside of git."""

    commit: str | None
    dirty: bool | None


class RunRecord(_Strict):
    """A job of the workflow, as its run record describes it. Further entries, such as `batch`, are in `model_extra`.

    Attributes:
        path: path of the record, relative to results/<preset>/. Not part of the file.
        step: step of the workflow, for example "joint".
        command: the command, which makes the same bytes on the same machine when it is run from the checkout.
        options: the resolved parameters that the step used.
        source: digest of the code of the step; None in records of early versions.
        inputs: {name: file}.
        parts: {name of an input: its cost}, for inputs that other jobs of the same step made.
        device, devices, wall_seconds, processor_seconds, peak_memory_mib: as in `Cost`.
        machine, git: the machine and the state of the code.
        packages: {name: version} of the libraries that results depend on.
        started: when the step began, with time zone.
        outputs: {path relative to the folder of the record: SHA-256} of the files written.
        threads: number of threads of torch; this and the next three are None if torch was not loaded.
        kernels: "compiled" or "torch", the kernels that ran; None if none were needed.
        cpu_capability: vector instructions that torch uses.
        gpu: name of the GPU, and the versions of CUDA and cuDNN; None on a CPU.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    path: str = Field(default="", exclude=True)
    step: str
    command: list[str]
    options: dict[str, Any]
    source: str | None = None
    inputs: dict[str, HashedFile]
    parts: dict[str, Cost] = Field(default_factory=dict)
    device: str | None = None
    machine: Machine
    packages: dict[str, str]
    git: Git
    started: datetime
    wall_seconds: float
    processor_seconds: float
    peak_memory_mib: float
    outputs: dict[str, str]
    threads: int | None = None
    devices: int = 1
    kernels: str | None = None
    cpu_capability: str | None = None
    gpu: str | None = None

    @field_validator("step")
    @classmethod
    def _is_a_step(cls, value: str) -> str:
        if value not in STEPS:
            raise ValueError(f"'{value}' is not a step")
        return value

    @field_serializer("started")
    def _started_with_offset(self, value: datetime) -> str:
        return value.isoformat(timespec="seconds")

    @classmethod
    def read(cls, results: Results, path: str) -> RunRecord:
        """Read the run record of one job.

        Args:
            results: results of the preset.
            path: path of the record, relative to results/<preset>/.

        Raises:
            UserError: it is missing or no run record; the message names the command that makes it.
        """
        try:
            return cls.parse((results.folder / path).read_bytes(), path)
        except FileNotFoundError:
            raise results.wrong(path, "missing") from None
        except ValueError as error:
            raise results.wrong(path, str(error)) from None

    @classmethod
    def read_lines(cls, results: Results, path: str) -> list[RunRecord]:
        """Read a file of run records, one per line, each with the folder where it was made.

        Args, Raises: those of `read`.
        """
        try:
            lines = (results.folder / path).read_bytes().splitlines()
            return [cls.parse(line) for line in lines]
        except FileNotFoundError:
            raise results.wrong(path, "missing") from None
        except ValueError as error:
            raise results.wrong(path, str(error)) from None

    @classmethod
    def parse(cls, text: bytes, path: str | None = None) -> RunRecord:
        """Return the run record that a text describes.

        Args:
            text: JSON.
            path: path of the record; None: it is in the folder that its entry `folder` names.

        Raises:
            ValueError: it is not a run record.
        """
        try:
            found = json.loads(text)
        except ValueError:
            raise ValueError("is not JSON") from None
        if not isinstance(found, dict):
            raise ValueError("is not a run record")
        try:
            place = f"{found.pop('folder')}/run.json" if path is None else path
            return cls.model_validate(found | {"path": place})
        except KeyError:
            raise ValueError("has a line that names no folder") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"is not a run record ({'.'.join(map(str, first['loc']))}: {first['msg'].lower()})") from None

    @property
    def folder(self) -> str:
        """Return the folder of the record and of the results that it describes, relative to results/<preset>/."""
        return Path(self.path).parent.as_posix()

    @property
    def files(self) -> dict[str, str]:
        """Return the files that the job wrote, relative to results/<preset>/, with their SHA-256."""
        return {posixpath.normpath(f"{self.folder}/{name}"): digest for name, digest in self.outputs.items()}

    @property
    def system(self) -> str | None:
        """Return the system of the model that the job computed; None for a job without a model."""
        return _system(self.options)

    @property
    def ended(self) -> datetime:
        """Return when the job had written its results."""
        return self.started + timedelta(seconds=self.wall_seconds)

    @property
    def cost(self) -> Cost:
        """Return the cost of the job, without that of its parts."""
        return Cost(**{name: getattr(self, name) for name in Cost.model_fields})

    def as_json(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return self.model_dump(mode="json")


def _system(options: Mapping[str, Any]) -> str | None:
    if "cell" not in options:
        return None
    from agave.grid import system_of  # here: steps that know no model do not load it

    return system_of(str(options["cell"]))


class Recorder:
    """Collect a run record from the start of a step to its end.

    Args:
        step: step of the workflow, for example "joint"; the digest of its code is recorded.
        options: the resolved parameters that the step uses.
        inputs: {name: file}; their SHA-256 are recorded.
        device: device on which networks run, if any do.

    Attributes:
        outputs: files written so far, for `recording`.
        facts: further entries of the record, for `recording`.
    """

    def __init__(self, step: str, options: Mapping[str, Any], inputs: Mapping[str, str | Path], device: str | None = None) -> None:
        self.outputs: list[Path] = []
        self.facts: dict[str, Any] = {}
        self._began = time.monotonic()
        self._record: dict[str, Any] = {
            "step": step,
            "options": portable(options),
            "source": code_digest.digest(step, _system(options)),
            "inputs": {name: {"file": portable(str(path)), "sha256": sha256(path)} for name, path in inputs.items()},
            "parts": {name: cost for name, path in inputs.items() if (cost := _part(step, Path(path))) is not None},
            "device": device,
            "machine": machine(),
            "packages": packages(),
            "git": git_state(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def write(self, path: str | Path, outputs: Sequence[Path], **facts: Any) -> None:
        """Finish the record and write it.

        Args:
            path: path of the json file.
            outputs: files that the step wrote.
            **facts: further entries.

        Raises:
            UserError: the disk is full, or the folder cannot be written to.
        """
        # ru_maxrss is in KiB on Linux and in bytes on macOS
        unit = 1 if sys.platform == "darwin" else 1024
        values = self._record | {
            "wall_seconds": round(time.monotonic() - self._began, 3),
            "processor_seconds": round(_processor_seconds(), 3),
            "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1),
            "outputs": {Path(os.path.relpath(output, Path(path).parent)).as_posix(): sha256(output) for output in outputs},
            **arithmetic(self._record["device"]),
            **facts,
        }
        record = RunRecord.model_validate(values | {"command": explicit_command(values)})
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record.as_json(), indent=2) + "\n", encoding="utf-8")


_recorded_seconds = 0.0


def _processor_seconds() -> float:
    """Return the CPU time of this process that no earlier record of it has counted."""
    global _recorded_seconds
    now = time.process_time()
    since, _recorded_seconds = now - _recorded_seconds, now
    return since


@contextmanager
def recording(
    step: str, options: Mapping[str, Any], inputs: Mapping[str, str | Path], path: Path, device: str | None = None
) -> Iterator[Recorder]:
    """Write the run record of a step when its block ends, unless the block fails.

    Args:
        step: as in `Recorder`.
        options: as in `Recorder`.
        inputs: {name: file}; those that do not exist are left out, because the step itself says what is missing.
        path: path of the record.
        device: as in `Recorder`.

    Yields:
        The recorder; the block adds the files that it writes to `outputs`, and further entries to `facts`.
    """
    recorder = Recorder(step, options, {name: file for name, file in inputs.items() if Path(file).exists()}, device)
    yield recorder
    recorder.write(path, recorder.outputs, **recorder.facts)


def _part(step: str, path: Path) -> Cost | None:
    """Return the cost of an input that another job of the same step made, because the workflow deletes parts when they are joined."""
    try:
        found = RunRecord.parse(path.with_suffix(".json").read_bytes(), path="")
    except (OSError, ValueError):
        return None
    return found.cost if found.step == step else None
