"""A throw-away checkout, Snakemake with the slurm profile in it, and what Slurm says about its jobs."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[2]
SITE = (  # what a site may set: how often Slurm is asked, how long a file may take to show, one thread as in the local run
    *("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5"),
    *("--set-threads", "pretrain_vae=1", "pretrain_pixelcnn_pp=1", "joint_cell=1"),
    *("evaluate_bound=1", "evaluate_iwae=1", "sample_cell=1", "codec_cell=1"),
    *("--set-scatter", "iwae=2"),  # the preset has four images for the profile's ten shards
)


def slurm(*command: str | Path) -> str:
    """The output of a Slurm command."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Workflow:
    """A checkout of the committed and changed files, and the Snakemake that runs there.

    Args:
        folder: where; must not exist.
        changes: of the preset `tiny`, {"pretrain.vae.steps": 9} for example.
    """

    def __init__(self, folder: Path, changes: dict[str, Any] | None = None) -> None:
        self.folder, self.output = folder, folder / "snakemake.out"
        self.main: subprocess.Popen[bytes] | None = None
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        folder.mkdir()
        archive = subprocess.run(["tar", "c", "--null", "-T", "-"], cwd=ROOT, check=True, input=names, capture_output=True).stdout
        subprocess.run(["tar", "x"], cwd=folder, check=True, input=archive)
        document = yaml.safe_load((folder / "params.yaml").read_text())
        for key, value in (changes or {}).items():
            *blocks, last = key.split(".")
            functools.reduce(dict.__getitem__, blocks, document["tiny"])[last] = value
        (folder / "params.yaml").write_text(yaml.safe_dump(document))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "OMP_"))}
        binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = kept | {"PATH": binaries, "PYTHONPATH": str(folder), "AGAVE_SAVE_EVERY": "1"}

    def start(self, *arguments: str) -> None:
        """Start Snakemake."""
        with self.output.open("ab") as output:
            command = ["snakemake", *arguments]
            self.main = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=output, stderr=output)

    def start_on_slurm(self, *targets: str, options: tuple[str, ...] = ()) -> None:
        """Start Snakemake with the slurm profile."""
        self.start("--profile", "slurm", *targets, "--config", "preset=tiny", *SITE, *options)

    def finish(self, seconds: float = 900) -> int:
        """Wait for the end; the exit code."""
        assert self.main is not None
        return self.main.wait(timeout=seconds)

    @property
    def printed(self) -> str:
        """What Snakemake printed."""
        return self.output.read_text()

    def submissions(self) -> int:
        """How many jobs Snakemake handed to Slurm."""
        arrays = [int(last) - int(first) + 1 for first, last in re.findall(r"task IDs are (\d+)-(\d+)", self.printed)]
        return self.printed.count("has been submitted with SLURM jobid") + sum(arrays)

    def queued(self, job: str = "", state: str = "all") -> list[str]:
        """Slurm's numbers of the jobs of this checkout that are not over; `job`: rule and wildcards, as in Slurm's comment."""
        lines = slurm("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING", "--format=%i|%T|%Z|%k").splitlines()
        found = [line.split("|") for line in lines]
        return [i for i, now, place, comment in found if place == str(self.folder) and job in comment and state in ("all", now)]

    def states(self) -> list[int]:
        """Steps of the saved states of all trainings."""
        return sorted(int(path.name.split("-")[1]) for path in (self.folder / "work").glob("*/state-*"))

    def saved(self) -> int:
        """How many trainings have saved a state; each keeps up to two."""
        return len({path.parent for path in (self.folder / "work").glob("*/state-*")})

    def record(self, training: str) -> dict[str, Any]:
        """The run record of a training."""
        return dict(json.loads((self.folder / training).with_name("run.json").read_text()))


def kill_job(number: str) -> None:
    """Kill all processes of a job of this machine's Slurm, as a node that fails does."""
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith(f"slurmstepd: [{number}."):
            for victim in (process, *process.children(recursive=True)):
                victim.kill()
