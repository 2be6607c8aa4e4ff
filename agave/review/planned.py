"""Ask Snakemake, in a throw-away copy, what it would do with finished results, so that the checkout and its records stay as they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from agave import figures
from agave.errors import UserError
from agave.provenance.code_digest import PACKAGE
from agave.provenance.lineage import large_files
from agave.provenance.run_record import RunRecord
from agave.results import Results
from agave.review.checks import Check

DRAWING_RULES = ("write_tables", *(f"figure_{name}" for name in figures.NAMES), "decide_claims", "write_records", "write_page")
DRAWING_STEPS = ("tables", "figures", "claims", "records", "page")
NOT_SHOWN = ("results", "logs", "work", ".git", ".snakemake", ".dvc", ".venv")


def check_plan(source: Results, records: Sequence[RunRecord]) -> Check:
    """Check that Snakemake plans nothing: all files are there, and its records name the parameters and inputs of this checkout.

    Time stamps do not count, because the hashes show that the files belong together. If the networks are not here, as in a clone of the
    git repository, only the steps after them are planned.

    Args:
        source: the results.
        records: all run records of the preset.

    Raises:
        UserError: the working directory holds no Snakefile.
    """
    if not Path("Snakefile").is_file():
        raise UserError(f"{Path.cwd()}: holds no Snakefile; accepted: the folder of a checkout as working directory")
    whole = all((source.folder / path).exists() for path in large_files(records))
    images = _images(records)
    targets = ["all"] if whole and images is not None else list(DRAWING_STEPS)
    arguments = [*targets, "--dry-run", "--set-scatter", f"iwae={_scattered(records)}"]
    arguments += [] if targets == ["all"] else ["--allowed-rules", *DRAWING_RULES, *DRAWING_STEPS]
    with tempfile.TemporaryDirectory(prefix="agave-verify-") as folder:
        _copy(source, Path(folder) / "checkout")
        plan = _snakemake(Path(folder), *arguments, "--config", f"preset={source.preset}", *([f"images={images}"] if images else []))
    check = Check("workflow", f"nothing to be done for {' '.join(targets)}")
    if "Nothing to be done" not in plan:
        check.summary = "results are missing or out of date"
        rules = [rule for rule in re.findall(r"^(\w+) +\d+$", plan, re.MULTILINE) if rule not in ("total", *targets)]
        check.problems.append(f"Snakemake would run {', '.join(rules)}" if rules else _last(plan))
    return check


def _images(records: Sequence[RunRecord]) -> str | None:
    """Return the path that the workflow was given by --config images=PATH: "" if there was none, None if it is unknown."""
    for record in records:
        if record.step == "prepare" and "--images" in record.command:
            path = record.command[record.command.index("--images") + 1]
            return path if Path(path).exists() else None
    return ""


def _scattered(records: Sequence[RunRecord]) -> int:
    """Return the number of jobs over which the images of the importance-sampled bounds were scattered."""
    return max([1, *(sum(name.startswith("shard ") for name in record.inputs) for record in records)])


def _copy(source: Results, folder: Path) -> None:
    """Make a folder that looks like the checkout to Snakemake: links to it, and for every result an empty file, all of one age."""
    folder.mkdir()
    for path in Path.cwd().iterdir():
        if path.name not in NOT_SHOWN:
            (folder / path.name).symlink_to(path)
    if Path(".snakemake/metadata").is_dir():
        shutil.copytree(".snakemake/metadata", folder / ".snakemake/metadata")
    results, now = folder / "results" / source.preset, time.time()
    for path in _files(source.folder):
        (results / path).parent.mkdir(parents=True, exist_ok=True)
        (results / path).touch()
        os.utime(results / path, (now, now))


def _files(folder: Path) -> Iterator[Path]:
    """List the files below a folder, relative to it; links to folders on other disks are followed."""
    for place, _, names in os.walk(folder, followlinks=True):
        yield from (Path(place).relative_to(folder) / name for name in names)


def _snakemake(folder: Path, *arguments: str) -> str:
    """Run Snakemake in folder/checkout, with separate caches, and return what it prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments, "--cores", "1"],
        cwd=folder / "checkout",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    return done.stdout


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "Snakemake printed nothing"
