"""The run record that lies beside every result: what made it, from what, where and how long it took."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agave.files import atomic_write, sha256
from agave.provenance import code_digest

COST = ("device", "wall_seconds", "processor_seconds", "peak_memory_mib")
PACKAGES = ("agave", "torch", "torchvision", "numpy", "safetensors", "pandas", "matplotlib", "snakemake", "dvc")


def git_state(folder: str | Path = ".") -> dict[str, Any]:
    """Commit and dirty flag of the checkout in `folder`; None where there is no git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


class Record:
    """Collects a run record from the start of a step to its end.

    Args:
        step: of the workflow, for example "joint"; the digest of its source is recorded.
        options: the resolved parameters that the step used.
        inputs: {name: file}; their SHA-256 are recorded.
        device: where the networks ran, if any did.
    """

    def __init__(self, step: str, options: Mapping[str, Any], inputs: Mapping[str, str | Path], device: str | None = None) -> None:
        self._began = time.monotonic()
        self._record: dict[str, Any] = {
            "step": step,
            "command": [Path(sys.argv[0]).name, *map(_portable, sys.argv[1:])],
            "options": _portable(options),
            "source": code_digest.digest(step),
            "inputs": {name: {"file": _portable(str(path)), "sha256": sha256(path)} for name, path in inputs.items()},
            "parts": {name: cost for name, path in inputs.items() if (cost := _part(step, Path(path)))},
            "device": device,
            "machine": {"system": platform.system(), "processor": platform.machine(), "python": platform.python_version()},
            "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
            "git": git_state(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def write(self, path: str | Path, outputs: list[Path], **results: Any) -> None:
        """Finish the record: times, peak memory, SHA-256 of the outputs, and whatever else the step found.

        Args:
            path: of the json file.
            outputs: files that the step wrote.
            **results: further entries.
        """
        # ru_maxrss is in KiB on Linux and in bytes on macOS
        unit = 1 if sys.platform == "darwin" else 1024
        record = self._record | {
            "wall_seconds": round(time.monotonic() - self._began, 3),
            "processor_seconds": round(time.process_time(), 3),
            "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1),
            "outputs": {output.name: sha256(output) for output in outputs},
            **results,
        }
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")


def _portable(value: Any) -> Any:
    """The same value without paths that mean nothing elsewhere.

    Outside the working directory a file is named by its SHA-256, a folder by its name.
    """
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items()}
    if not isinstance(value, str) or not os.path.exists(value) or Path(value).resolve().is_relative_to(Path.cwd()):
        return value
    return f"sha256:{sha256(value)}" if os.path.isfile(value) else Path(value).resolve().name


def _part(step: str, path: Path) -> dict[str, Any]:
    """What an input cost, if it is a part that another job of the same step made: the workflow deletes parts when they are joined."""
    record = path.with_suffix(".json")
    if not record.exists():
        return {}
    found = json.loads(record.read_text())
    return {key: found[key] for key in COST} if found.get("step") == step else {}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
