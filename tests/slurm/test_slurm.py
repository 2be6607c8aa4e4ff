"""The slurm profile on a throw-away Slurm (`make test-slurm`): the preset `tiny` from end to end, then one fault after the other.

A fault must cost no finished work: the training goes on from its saved state and ends with the weights of an undisturbed one.
"""

from __future__ import annotations

import csv
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from checkout import SITE, Workflow, kill_job, slurm
from cluster import start_node, wait_for

pytestmark = pytest.mark.slurm

SHORT = "results/tiny/pretrain/pixelcnn_pp/seed~0/model.safetensors"
STEPS = 400
OTHER = "results/tiny/pretrain/pixelcnn_pp/seed~1/model.safetensors"
LONG = "results/tiny/pretrain/vae-resolution~16/seed~0/model.safetensors"  # longer than the 30 s between Slurm's looks at time limits


@pytest.fixture(scope="session")
def folder() -> Path:
    """Of the throw-away Slurm."""
    found = os.environ.get("THROW_AWAY_SLURM")
    if found is None:
        pytest.exit("these tests need a throw-away Slurm: run them with make test-slurm", returncode=1)
    return Path(found)


def work_seconds(*logs: Path) -> list[float]:
    """Seconds of each job's own command, from Snakemake's benchmark files."""
    return [float(row["s"]) for path in logs for row in csv.DictReader(path.read_text().splitlines(), delimiter="\t")]


def seconds_of(line: str) -> float:
    """Seconds between the start and the end of a job, from Slurm's record."""
    start, end = (datetime.fromisoformat(text) for text in re.findall(r"(?:Start|End)Time=(\S+)", line))
    return (end - start).total_seconds()


def test_the_preset_tiny_from_end_to_end(folder: Path, tmp_path: Path) -> None:
    # two cells fewer, and two of the nine further systems: one with importance sampling, one without
    run = Workflow(tmp_path / "checkout", {"grid.kl_weights": [8], "grid.levels": [256], "table1.systems": ["nice", "masked_pixelcnn"]})
    began = time.monotonic()
    run.start_on_slurm("all")
    assert run.finish() == 0, run.printed
    wall = time.monotonic() - began

    # every job once, none failed; the images on this side of the queue
    planned = int(re.search(r"^total +(\d+)", run.printed, re.MULTILINE)[1])  # type: ignore[index]
    assert f"{planned} of {planned} steps (100%) done" in run.printed
    assert "Trying to restart" not in run.printed
    lines = [line for line in (folder / "jobs.txt").read_text().splitlines() if f"WorkDir={run.folder} " in line]
    assert {re.search(r"JobState=(\w+)", line)[1] for line in lines} == {"COMPLETED"}  # type: ignore[index]
    submitted = run.submissions()
    assert len(lines) == submitted
    assert not list((run.folder / ".snakemake/slurm_logs").glob("rule_prepare*"))

    run.start("--profile", "slurm", "-n", "all", "--config", "preset=tiny", *SITE)
    assert run.finish() == 0
    assert "Nothing to be done" in run.printed

    work = work_seconds(*run.folder.glob("logs/tiny/**/*.tsv"))
    allocated = sum(seconds_of(line) for line in lines)
    print(f"\npreset tiny: {submitted} Slurm jobs, {wall:.0f} s wall; {sum(work):.0f} s own work of the jobs, {allocated:.0f} s allocated")
    print(f"overhead inside an allocation, up to 8 jobs at once: {(allocated - sum(work)) / submitted:.1f} s a job")

    # one job on a Slurm that has nothing else to do
    began = time.monotonic()
    run.start_on_slurm("results/tiny/figures/figure2.png", options=("--force",))
    assert run.finish() == 0, run.printed
    wall, (own,) = time.monotonic() - began, work_seconds(run.folder / "logs/tiny/figures/2.tsv")
    print(f"overhead of a run of one job, alone: {wall - own:.1f} s (wall {wall:.1f} s, own work {own:.1f} s)")


@dataclass
class Outcome:
    """What a fault led to.

    Attributes:
        submitted: jobs that Snakemake handed to Slurm, of one training.
        lost: steps that were done twice.
        resumed: steps at which the training went on.
        equal: whether the final weights are those of the local run, byte by byte.
    """

    submitted: int
    lost: str
    resumed: list[int]
    equal: bool


def newest(run: Workflow) -> int:
    """Step of the newest saved state, as soon as there is one."""
    return int(max(wait_for(run.states, "a saved state")))


def interrupted(run: Workflow, log: str = "logs/tiny/pretrain/pixelcnn_pp/seed~0.log") -> int:
    """The step at which the training in a log says that it was interrupted."""

    def found() -> re.Match[str] | None:
        path = run.folder / log
        return re.search(r"interrupted at step (\d+)", path.read_text()) if path.exists() else None

    return int(wait_for(found, "the training's last word")[1])


def preempted(run: Workflow, same: Callable[[str], bool]) -> Outcome:
    run.start_on_slurm(SHORT, options=("--default-resources", "slurm_partition=spot"))
    newest(run)
    slurm("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    step = interrupted(run)
    assert run.finish() == 0, run.printed
    resumed = run.record(SHORT)["resumed"]
    return Outcome(run.submissions(), str(step - resumed[0]), resumed, same(SHORT))


def node_down(run: Workflow, same: Callable[[str], bool], folder: Path) -> Outcome:
    run.start_on_slurm(SHORT, options=("--default-resources", "slurm_partition=fragile"))
    newest(run)
    (number,) = run.queued(state="RUNNING")
    os.kill(int((folder / "n3.daemon").read_text()), signal.SIGKILL)
    kill_job(number)
    step = newest(run)
    wait_for(lambda: "down" in slurm("sinfo", "--noheader", "--nodes=n3", "--format=%T"), "Slurm noticing that n3 is down")
    start_node(folder, "n3")
    assert run.finish() == 0, run.printed
    resumed = run.record(SHORT)["resumed"]
    assert resumed == [step]
    return Outcome(run.submissions(), "since the last save", resumed, same(SHORT))


def time_limit(run: Workflow, same: Callable[[str], bool]) -> Outcome:
    """The profile's own signal, five minutes before the limit: Slurm sends it when it next looks, every 30 seconds."""
    run.start_on_slurm(LONG)
    newest(run)
    (number,) = run.queued(state="RUNNING")
    slurm("scontrol", "update", f"JobId={number}", "TimeLimit=5")
    step = interrupted(run, "logs/tiny/pretrain/vae-resolution~16/seed~0.log")
    assert run.finish() == 0, run.printed
    assert f"interrupted at step {step}" in run.printed  # the log of the attempt is shown
    resumed = run.record(LONG)["resumed"]
    return Outcome(run.submissions(), str(step - resumed[0]), resumed, same(LONG))


def over_memory(run: Workflow, same: Callable[[str], bool]) -> Outcome:
    run.start_on_slurm(SHORT, options=("--set-resources", "pretrain_pixelcnn_pp:mem_mb=400 if attempt == 1 else 4000"))
    assert run.finish() == 0, run.printed
    assert "Trying to restart" in run.printed
    return Outcome(run.submissions(), "since the last save", run.record(SHORT)["resumed"], same(SHORT))


def cancelled(run: Workflow, same: Callable[[str], bool]) -> Outcome:
    """Ctrl-C: the jobs are cancelled and no lock stays."""
    run.start_on_slurm(SHORT)
    newest(run)
    assert run.main is not None
    run.main.send_signal(signal.SIGINT)
    step = interrupted(run)
    assert run.finish() == 1
    wait_for(lambda: not run.queued(), "the end of the job")
    run.start_on_slurm(SHORT)
    assert run.finish() == 0, run.printed
    resumed = run.record(SHORT)["resumed"]
    return Outcome(run.submissions(), str(step - resumed[0]), resumed, same(SHORT))


def main_process_killed(run: Workflow, same: Callable[[str], bool]) -> Outcome:
    """As docs/cluster.md says: look at the queue, cancel what still runs or let it end, unlock, start again."""
    run.start_on_slurm(SHORT, OTHER)
    wait_for(lambda: run.saved() == 2 and len(run.queued(state="RUNNING")) == 2, "two trainings")
    assert run.main is not None
    run.main.kill()
    run.finish()
    (number,) = run.queued("tiny_0")
    slurm("scancel", number)
    step = interrupted(run)
    wait_for(lambda: not run.queued(), "the end of the other job")
    assert (run.folder / OTHER).exists()

    run.start_on_slurm(SHORT, OTHER)
    assert run.finish() == 1
    assert "--unlock" in run.printed
    run.start_on_slurm("--unlock")
    assert run.finish() == 0
    run.start_on_slurm(SHORT, OTHER)
    assert run.finish() == 0, run.printed
    assert run.record(SHORT)["resumed"] == [step]
    assert run.record(OTHER)["resumed"] in ([], [STEPS])  # finished without the main process: no step is done again
    return Outcome(run.submissions(), "0", [step], same(SHORT))


CHANGES = {"pretrain.pixelcnn_pp.steps": STEPS, "pretrain.vae.steps": 7000, "grid.seeds": [0, 1]}
FAULTS = {
    "preempted": preempted,
    "node goes down": node_down,
    "time limit": time_limit,
    "more memory than asked for": over_memory,
    "cancelled with Ctrl-C": cancelled,
    "main process killed (-9)": main_process_killed,
}


@pytest.fixture(scope="module")
def outcomes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Outcome]]]:
    """All faults side by side, each in its own checkout, and the local run that they are compared with."""
    place = tmp_path_factory.mktemp("faults")
    local = Workflow(place / "local", CHANGES)
    local.start(SHORT, LONG, "--profile", "workflow/profiles/local", "--config", "preset=tiny")
    runs = {name: Workflow(place / fault.__name__, CHANGES) for name, fault in FAULTS.items()}

    def attempt(name: str) -> Outcome:
        def same(model: str) -> bool:
            assert local.finish() == 0, local.printed
            names = (model, model.replace("model.", "raw."))
            return all((runs[name].folder / file).read_bytes() == (local.folder / file).read_bytes() for file in names)

        fault, more = FAULTS[name], {"folder": folder} if name == "node goes down" else {}
        return fault(runs[name], same, **more)

    with ThreadPoolExecutor(len(FAULTS)) as pool:
        found = {name: pool.submit(attempt, name) for name in FAULTS}
        yield found
    print(f"\n{'fault':<28}{'Slurm jobs':<12}{'steps lost':<22}{'resumed at':<24}weights equal")
    for name, future in found.items():
        if future.exception() is None:
            outcome = future.result()
            print(f"{name:<28}{outcome.submitted:<12}{outcome.lost:<22}{outcome.resumed!s:<24}{'yes' if outcome.equal else 'NO'}")


@pytest.mark.parametrize("fault", FAULTS)
def test_no_finished_work_is_lost(fault: str, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[fault].result()
    assert outcome.equal
    assert outcome.lost in ("0", "since the last save")
