"""What the slurm profile asks of sbatch for the preset `paper`, by a recording `sbatch` in place of Slurm."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_workflow import check_out, snakemake

PROFILE = Path(__file__).parents[1] / "workflow/profiles/slurm/config.yaml"
pytestmark = pytest.mark.integration
GPU_RULES = ("pretrain_vae", "pretrain_pixelcnn_pp", "joint_cell", "evaluate_bound", "evaluate_iwae", "sample_cell", "codec_cell")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """A checkout in which the preset `paper` has run, as far as Snakemake can tell, and a file that each job made, by rule.

    Its `sbatch` writes its arguments down and refuses the job; `sinfo` knows one partition.
    """
    folder = check_out(tmp_path_factory.mktemp("paper"))
    text = snakemake(folder, "-n", "all", "--config", "preset=paper").stdout
    made: dict[str, list[str]] = {}
    for rule, outputs in re.findall(r"^(?:local)?rule (\w+):\n(?:    (?!output).*\n)*    output: (.*)$", text, re.MULTILINE):
        names = [name.removeprefix("temp(").removesuffix(")") for name in outputs.split(", ")]
        made.setdefault(rule, []).append(names[0])
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
    assert snakemake(folder, "--touch", "--forceall", "--cores", "1", "all", "--config", "preset=paper").returncode == 0
    one = "{ printf '%s\\0' \"$@\"; printf '\\n\\0'; } > sbatch.$$"  # several at once: each is added by a single write
    record = f"{one}; cat sbatch.$$ >> sbatch.txt; exit 1"
    for program, script in {"sbatch": record, "sinfo": "echo 'batch*'", "sacct": "exit 1", "scontrol": "exit 1"}.items():
        path = folder / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return folder, made


@pytest.fixture
def plan(finished: tuple[Path, dict[str, list[str]]], tmp_path: Path) -> tuple[Path, dict[str, list[str]]]:
    """A copy of it: Snakemake removes the files of a job that it could not submit."""
    return Path(shutil.copytree(finished[0], tmp_path / "paper", symlinks=True)), finished[1]


def submitted(folder: Path, *targets: str) -> dict[str, list[str]]:
    """The arguments of sbatch, by rule, when the targets are made once more."""
    record = folder / "sbatch.txt"
    environment = os.environ | {"PATH": f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", *targets, "--force", "--retries", "0"]
    command += ["--slurm-init-seconds-before-status-checks", "1"]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert done.returncode == 1, done.stdout  # every submission is refused
    calls = [call.split("\0")[:-1] for call in record.read_text().removesuffix("\n\0").split("\n\0")]
    comments = [call[call.index("--comment") + 1] for call in calls]
    return {re.match(r"(?:rule_)?(\w+?)(?:_wildcards_.*)?$", comment)[1]: call for comment, call in zip(comments, calls, strict=True)}


def planned(folder: Path, target: str) -> dict[str, str]:
    """The resources of the job that makes a file, as Snakemake's plan states them."""
    text = snakemake(folder, "--profile", "slurm", "-n", target, "--force").stdout
    found = re.search(r"^    resources: (.*)$", text, re.MULTILINE)
    assert found is not None, text
    return dict(item.split("=", 1) for item in found[1].split(", "))


def check(folder: Path, rule: str, call: list[str], target: str) -> None:
    """A GPU job asks for exactly what the plan says, and for the signal before the time limit."""
    wanted = planned(folder, target)
    assert wanted["gpu"] == "1"
    threads = yaml.safe_load(PROFILE.read_text())["set-threads"][rule]  # a dry run shows one thread for all
    options = call[call.index("--comment") + 2 : call.index("--gpus=1") + 1]
    size = f"-t {wanted['runtime']} --mem {wanted['mem_mb']} --requeue --cpus-per-task={threads}"
    assert shlex.join(options) == f"-p batch {size} --signal=TERM@300 -D {folder} --gpus=1"
    assert int(wanted["mem_mb"]) >= 600  # Snakemake alone takes 260 MB of a job
    assert int(wanted["runtime"]) > 10  # the signal comes five minutes before


@pytest.mark.parametrize(
    "rules", [("pretrain_vae", "pretrain_pixelcnn_pp"), ("joint_cell", "evaluate_bound", "evaluate_iwae", "sample_cell", "codec_cell")]
)
def test_the_paper_presets_gpu_jobs_ask_for_what_the_plan_says(rules: tuple[str, ...], plan: tuple[Path, dict[str, list[str]]]) -> None:
    folder, made = plan
    trained = made["joint_cell"][0]
    targets = {rule: [name for name in made[rule] if trained.split("/")[3] not in name] for rule in rules} | {"joint_cell": [trained]}
    calls = submitted(folder, *(name for rule in rules for name in targets[rule][:1]))
    assert set(calls) == set(rules)
    for rule in rules:
        check(folder, rule, calls[rule], targets[rule][0])


def test_tables_and_figures_ask_for_no_gpu(plan: tuple[Path, dict[str, list[str]]]) -> None:
    folder, made = plan
    call = submitted(folder, made["figure_2"][0])["figure_2"]
    assert not any("gpu" in word for word in call[:-1])
    assert "--ntasks=1" in call


@pytest.mark.parametrize(
    ("lines", "gpu_job", "other"),
    [
        (["gpu_model: a100"], "-p batch --gpus=a100:1", "-p batch"),
        (["gres: gpu:a100:1"], "-p batch --gres=gpu:a100:1", "-p batch"),
        (["slurm_partition: gpu", "slurm_partition: batch"], "-p gpu --gpus=1", "-p batch"),
    ],
)
def test_the_lines_of_the_site_reach_the_jobs_that_they_are_for(
    lines: list[str], gpu_job: str, other: str, plan: tuple[Path, dict[str, list[str]]]
) -> None:
    folder, made = plan
    profile = folder / "slurm/config.yaml"
    if lines[0].startswith("gres"):
        profile.write_text(profile.read_text().replace("    gpu: 1 ", "    gpu: 0 "))
    for line in lines:
        text = profile.read_text()
        assert f"# {line}" in text
        profile.write_text(text.replace(f"# {line}", line))
    calls = submitted(folder, made["sample_cell"][0], made["figure_2"][0])
    for rule, wanted in {"sample_cell": gpu_job, "figure_2": other}.items():
        options = calls[rule][:-1]
        found = ["-p", options[options.index("-p") + 1], *(word for word in options if word.startswith(("--gpus", "--gres")))]
        assert " ".join(found) == wanted, rule
    key, value = lines[0].split(": ")
    asked = yaml.safe_load(profile.read_text())["set-resources"]
    assert {str(asked[rule][key]) for rule in GPU_RULES} == {value}
