"""The ledger over the workflow, for real: a throw-away git and DVC repository of this checkout with a preset of four small models.

The workflow runs once; each test works on a copy of what it left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_workflow import DRAWN, FIGURES, REDRAWN, ROOT, UNGROWN, check_out, jobs

from agave import figures
from agave.steps import STEPS

MINI = """
mini:
  prepare: {source: photos, image_size: 8, photos: {train_crops: 32, test_crops: 8}}
  model:
    vae: {blocks: 1, hidden: 4, latent: 4}
    pixelcnn_pp: {filters: 4, resnets: 1, mixtures: 1, resolutions: 1, dropout: 0.0, stream_channels: 4}
  compute: {device: cpu, precision: float32}
  pretrain:
    vae: {steps: 4, batch: 4, warmup_steps: 2, ema_decay: 0.9, init_images: 8}
    pixelcnn_pp: {steps: 4, batch: 4, warmup_steps: 2, ema_decay: 0.9, init_images: 8}
  joint: {steps: 3, batch: 4, warmup_steps: 2, ema_decay: 0.9, init_images: 8}
  table1: {systems: []}
  grid: {kl_weights: [2, 3], table_kl_weight: 2, levels: [256], levels_kl_weight: 2, resolutions: [], without_auxiliary_kl_weight: null}
  evaluate: {batch: 8, iwae_samples: 2, iwae_images: 2}
  sample: {images: 2, batch: 2, completion_rows: 4}
  codec: {images: 4, others: false}
"""
pytestmark = pytest.mark.integration

CELLS = 4
CODED = 3  # the table's KL weight is the smallest
STAGES = [step for step in STEPS if step != "report"]
STALE = "kl_weight~3-levels~256-resolution~8"
ALL = {
    "prepare_images": 1,
    "pretrain_vae": 1,
    "pretrain_pixelcnn_pp": 1,
    "joint_cell": CELLS,
    "gather_trainings": 1,
    "evaluate_bound": CELLS,
    "evaluate_iwae": 2,
    "gather_iwae": 2,
    "sample_cell": CELLS,
    "codec_cell": CODED,
    "compress_with_formats": 1,
    "write_tables": 1,
    "figures": len(figures.NAMES),
    "decide_claims": 1,
    "write_records": 1,
    "write_page": 1,
}
STEP_OF = {
    "prepare_images": "prepare",
    "prune": "pretrain",
    "pretrain_vae": "pretrain",
    "pretrain_pixelcnn_pp": "pretrain",
    "joint_cell": "joint",
    "gather_trainings": "trainings",
    "evaluate_bound": "evaluate",
    "evaluate_iwae": "evaluate",
    "gather_iwae": "evaluate",
    "sample_cell": "sample",
    "codec_cell": "codec",
    "compress_with_formats": "formats",
    "write_tables": "tables",
    "figures": "figures",
    "decide_claims": "claims",
    "write_records": "records",
    "write_page": "page",
}
AT_REST: tuple[set[str], dict[str, int]] = (set(), {})
CAME_OUT_THE_SAME = 2  # figures of Table 1 and of compressed files, whose tables do not change with a cell of Figure 5
OTHER_LEVELS = UNGROWN | {"figures": UNGROWN["figures"] + 1}  # Figure 2 names the colour levels
IWAE = {"evaluate_iwae": 2, "gather_iwae": 2}
ONE_CELL = {"joint_cell": 1, "evaluate_bound": 1, "sample_cell": 1}


class Repository:
    """A checkout of its own, with its own settings of git and DVC and without any of the user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def try_to(self, *command: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "DVC", "GIT"))}
        settings = {f"DVC_{name}_DIR": str(self.folder.parent / "dvc") for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")}
        settings |= {f"GIT_{role}_{name}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for name in ("NAME", "EMAIL")}
        settings |= {"SNAKEMAKE_PROFILE": "workflow/profiles/local", "PYTHONPATH": str(self.folder), "DVC_NO_ANALYTICS": "1"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            command,
            cwd=self.folder,
            env=kept | settings | {"PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> str:
        done = self.try_to(*command)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
        return done.stdout

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        """The commands of a target of the Makefile, without its installation and in the environment of the tests."""
        commands = self.run("make", "--dry-run", "--no-print-directory", "--old-file=.venv/installed", target)
        return self.try_to("bash", "-e", "-c", commands)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "results")

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert old in text
        begin = text.rindex(old) if file == "params.yaml" else text.index(old)  # `mini` is the last preset of the file
        (self.folder / file).write_text(text[:begin] + new + text[begin + len(old) :])

    def planned(self) -> dict[str, int]:
        return jobs(self.try_to("snakemake", "--dry-run", "all"))

    def changed_stages(self) -> set[str]:
        return set(json.loads(self.run("dvc", "status", "--json").splitlines()[-1]))

    def to_do(self) -> tuple[set[str], dict[str, int]]:
        """The stages that DVC sees changed and the jobs that Snakemake plans."""
        with ThreadPoolExecutor() as pool:
            stages, plan = pool.submit(self.changed_stages), pool.submit(self.planned)
            return stages.result(), plan.result()

    def names(self, step: str) -> set[str]:
        return {path.name for path in (self.folder / "results/mini" / step).iterdir()}

    def metrics(self) -> Any:
        return json.loads((self.folder / "results/mini/tables/metrics.json").read_text())


def done(log: str) -> dict[str, int]:
    """Number of jobs of each rule that ran, from the output of Snakemake; figures together, targets not at all."""
    found: dict[str, int] = {}
    for rule in re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)$", log, re.MULTILINE):
        if rule not in {*STEPS, "all"}:
            name = "figures" if rule.startswith("figure_") else rule
            found[name] = found.get(name, 0) + 1
    return found


def stages_run(log: str) -> list[str]:
    return re.findall(r"^Running stage '(\w+)':$", log, re.MULTILINE)


def recorded(repository: Repository) -> Mapping[str, Any]:
    """The hashes in dvc.lock of what was computed; with what is gathered and drawn from it lie run records, whose times differ."""
    stages = yaml.safe_load((repository.folder / "dvc.lock").read_text())["stages"]
    computed = [stage for name, stage in stages.items() if name not in ("trainings", "tables", "figures", "claims", "records", "page")]
    return {out["path"]: out["md5"] for stage in computed for out in stage["outs"]}


def checksums(repository: Repository) -> dict[str, str]:
    """The hashes of all small results, without the run records of what was gathered and drawn."""
    lines = [line.split("  ") for line in (repository.folder / "results/mini/records/SHA256SUMS").read_text().splitlines()]
    drawn = ("trainings/run.json", "tables/run.json", "figures/", "claims/run.json", "records/")
    return {path: value for value, path in lines if not (path.startswith(drawn) and path.endswith((".json", "compute.csv", "compute.md")))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The workflow has run by hand, `make dvc-commit` has recorded it, and git has it."""
    repository = Repository(check_out(tmp_path_factory.mktemp("finished") / "repository"))
    folder = repository.folder
    for name in ("dvc.yaml", "Makefile", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(re.sub("^preset: demo", "preset: mini", params, flags=re.MULTILINE) + MINI)
    repository.run("git", "init", "--quiet")
    refused = repository.make("dvc-commit")
    assert refused.returncode == 1 and "results are missing or out of date" in refused.stdout
    assert not (folder / "dvc.lock").exists()
    assert done(repository.run("snakemake", "all")) == ALL
    recording = repository.make("dvc-commit")
    assert recording.returncode == 0 and "up to date" in recording.stdout, recording.stdout
    repository.commit()
    return repository


@pytest.fixture
def repository(finished: Repository, tmp_path: Path) -> Repository:
    """A copy to change: same files, same time stamps."""
    return Repository(shutil.copytree(finished.folder, tmp_path / "repository", symlinks=True))


def test_after_a_run_by_hand_dvc_has_nothing_to_do(finished: Repository) -> None:
    assert stages_run(finished.run("dvc", "repro", "--dry")) == []
    assert stages_run(finished.run("dvc", "repro")) == []
    assert finished.to_do() == AT_REST
    tracked = set(finished.run("git", "ls-files", "results").split())
    assert {"results/mini/tables/metrics.json", "results/mini/figures/figure4.csv", "results/mini/prepare/manifest.json"} <= tracked
    assert {Path(file).parts[2] for file in tracked} == set(STAGES) - {"pretrain", "joint"}  # those, and drawn/, are DVC's
    assert finished.run("git", "status", "--porcelain") == ""


EDITS: dict[str, tuple[str, str, str, set[str], dict[str, int]]] = {  # file, old, new, stages that DVC sees changed, jobs
    "one grid value": (
        "params.yaml",
        "kl_weights: [2, 3]",
        "kl_weights: [2, 4]",
        {"pretrain", "joint", "trainings", "evaluate", "sample", "codec", "tables", "figures", "claims", "records", "page"},
        {"prune": 1} | ONE_CELL | UNGROWN,
    ),
    "one pretraining number": (
        "params.yaml",
        "vae: {steps: 4,",
        "vae: {steps: 5,",
        {"pretrain", "joint", "trainings", "evaluate", "sample", "codec", "tables", "figures", "claims", "records", "page"},
        {"pretrain_vae": 1, "joint_cell": 3, "evaluate_bound": 3, "evaluate_iwae": 2, "gather_iwae": 2, "sample_cell": 3, "codec_cell": 2}
        | DRAWN,
    ),
    "one joint training number": (
        "params.yaml",
        "joint: {steps: 3,",
        "joint: {steps: 4,",
        {"joint", "trainings", "evaluate", "sample", "codec", "tables", "figures", "claims", "records", "page"},
        {"joint_cell": CELLS, "evaluate_bound": CELLS, "evaluate_iwae": 2, "gather_iwae": 2, "sample_cell": CELLS, "codec_cell": CODED}
        | DRAWN,
    ),
    "one more colour level": (
        "params.yaml",
        "levels: [256]",
        "levels: [256, 32]",
        {"pretrain", "joint", "trainings", "evaluate", "sample", "codec", "tables", "figures", "claims", "records", "page"},
        ONE_CELL | OTHER_LEVELS,
    ),
    "K": (
        "params.yaml",
        "iwae_samples: 2",
        "iwae_samples: 3",
        {"evaluate", "codec", "tables", "figures", "claims", "records", "page"},
        IWAE | REDRAWN,
    ),
    "a batch that changes no result": (
        "params.yaml",
        "evaluate: {batch: 8",
        "evaluate: {batch: 4",
        {"evaluate", "codec", "tables", "figures", "claims", "records", "page"},
        {},
    ),
    "a figure setting": ("params.yaml", "dpi: 200", "dpi: 100", {"figures", "records", "page"}, FIGURES),
    "code of the figures": ("agave/figures/style.py", "WIDTH = ", "WIDTH = 0.9 * ", {"figures", "records", "page"}, FIGURES),
    "code of the evaluation": (
        "agave/evaluation/one_sample.py",
        "\n\n\n",
        "\n\nUNUSED = 1\n\n\n",
        {"evaluate"},
        {"evaluate_bound": CELLS, "codec_cell": CODED} | IWAE | REDRAWN,
    ),
    "a docstring of the model": (
        "agave/models/agave.py",
        '"""',
        '"""Reworded. ',
        {"pretrain", "joint", "evaluate", "sample", "codec"},
        {},
    ),
    "another preset alone": ("params.yaml", "evaluate: {batch: 16", "evaluate: {batch: 4", set(), {}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_both_see_exactly_what_depends_on_an_edit(repository: Repository, edit: str) -> None:
    file, old, new, stages, planned = EDITS[edit]
    repository.edit(file, old, new)
    assert repository.to_do() == (stages, planned)
    assert {STEP_OF[rule] for rule in planned} <= downstream(stages), "DVC would not run a stage that has jobs"


def downstream(changed: set[str]) -> set[str]:
    """These stages and all that read what they write, directly or not."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = {name: {path for out in stage["outs"] for path in out} for name, stage in stages.items()}
    found = set(changed)
    for name in stages:  # in data-flow order
        if any(outs[before] & set(stages[name]["deps"]) for before in found):
            found.add(name)
    return found


def test_a_grid_that_grows_and_shrinks_leaves_nothing_stale(repository: Repository) -> None:
    """DVC first, then Snakemake: grows under `dvc repro`, shrinks under `snakemake`, and all hashes are the first ones again."""
    before, weights = (
        (recorded(repository), checksums(repository)),
        repository.folder / f"results/mini/joint/{STALE}/seed~0/model.safetensors",
    )
    bytes_before = weights.read_bytes()
    repository.edit("params.yaml", "levels: [256]", "levels: [256, 32]")
    log = repository.run("dvc", "repro")
    drawn = {"figures": OTHER_LEVELS["figures"] - CAME_OUT_THE_SAME}  # the stage `tables` is over before that of the figures begins
    assert done(log) == ONE_CELL | OTHER_LEVELS | drawn
    assert stages_run(log) == [stage for stage in STAGES[1:] if stage != "formats"]  # which has no model
    new = "kl_weight~2-levels~32-resolution~8"
    assert new in repository.metrics()["cells"]
    assert f"cells.{new}.kl" in repository.run("dvc", "metrics", "diff")
    assert "mini.grid" in repository.run("dvc", "params", "diff")

    repository.edit("params.yaml", "levels: [256, 32]", "levels: [256]")
    log = repository.run("snakemake", "all")
    assert done(log) == {"prune": 1} | OTHER_LEVELS
    assert f"joint/{new}/seed~0" in log  # what is set aside is said
    for step in ("joint", "evaluate", "sample"):
        assert len(repository.names(step)) == CELLS and new not in repository.names(step)
    assert (repository.folder / f"work/pruned/mini/1/joint/{new}/seed~0/model.safetensors").exists()
    for name in ("tables/bounds.csv", "tables/metrics.json", "figures/figure5b.csv", "figures/figuretraining.csv"):
        assert new not in (repository.folder / "results/mini" / name).read_text()
    assert repository.make("dvc-commit").returncode == 0
    assert (recorded(repository), checksums(repository)) == before
    assert weights.read_bytes() == bytes_before

    shutil.copytree(repository.folder / "work/pruned/mini/1", repository.folder / "results/mini", dirs_exist_ok=True)
    repository.edit("params.yaml", "levels: [256]", "levels: [256, 32]")
    assert repository.planned() == OTHER_LEVELS  # what was set aside and is copied back needs no training


def test_an_experiment_with_another_k(repository: Repository) -> None:
    before = repository.metrics()
    log = repository.run("dvc", "exp", "run", "--name", "more-samples", "--set-param", "mini.evaluate.iwae_samples=3")
    assert done(log) == {
        "evaluate_iwae": 2,
        "gather_iwae": 2,
        "write_tables": 1,
        "figures": 2,
        "decide_claims": 1,
        "write_records": 1,
        "write_page": 1,
    }  # the growth and Table 1; the bounds behind the other figures came out as before
    assert stages_run(log) == ["evaluate", "codec", "tables", "figures", "claims", "records", "page"]
    assert repository.to_do() == AT_REST
    after = repository.metrics()
    assert after["cells"] == before["cells"] and after["table1"] != before["table1"]
    changed = json.loads(repository.run("dvc", "params", "diff", "--json").splitlines()[-1])["params.yaml"]
    assert changed["mini.evaluate.iwae_samples"] == {"old": 2, "new": 3, "diff": 1}
    metrics = json.loads(repository.run("dvc", "metrics", "diff", "--json").splitlines()[-1])
    assert {key for changes in metrics.values() for key in changes} == {f"table1.{key}" for key in ("VAE-IAF", "AGAVE, λ = 2")}
    assert "more-samples" in repository.run("dvc", "exp", "list")
    for name in ("Figure 4", "Figure 5b", "Training curves"):
        plot = json.loads(repository.run("dvc", "plots", "diff", "HEAD", "--targets", f"dvc.yaml::{name}", "--show-vega").splitlines()[-1])
        assert {row["rev"] for row in plot["data"]["values"]} == {"HEAD", "workspace"}
        assert "<DVC_METRIC" not in json.dumps(plot)
    repository.run("dvc", "plots", "show")
    assert "static/" in (repository.folder / "dvc_plots/index.html").read_text()  # the pictures lie beside the page
    assert [path.name for path in (repository.folder / "dvc_plots/static").iterdir() if "figure4.png" in path.name]

    repository.run("git", "checkout", ".")
    assert repository.make("dvc-checkout").returncode == 0
    assert repository.metrics() == before and repository.to_do() == AT_REST
    repository.run("dvc", "exp", "apply", "more-samples")
    assert repository.make("dvc-checkout").returncode == 0
    assert repository.metrics() == after and repository.to_do() == AT_REST


def test_a_failure_midway_keeps_what_finished_and_the_next_repro_goes_on(repository: Repository) -> None:
    repository.edit("params.yaml", "joint: {steps: 3,", "joint: {steps: 4,")
    obstacle = repository.folder / f"logs/mini/joint/{STALE}/seed~0.log"  # the log of one training cannot be written
    obstacle.unlink()
    (obstacle / "in the way").mkdir(parents=True)
    failed = repository.try_to("dvc", "repro", "joint")
    assert failed.returncode != 0
    assert done(failed.stdout) == {"joint_cell": CELLS - 1}
    assert stages_run(failed.stdout) == ["joint"]
    shutil.rmtree(obstacle)
    log = repository.run("dvc", "repro", "joint")
    assert done(log) == {"joint_cell": 1}
    assert stages_run(log) == ["joint"]


def test_a_reworded_docstring_runs_stages_but_no_job(repository: Repository) -> None:
    before = recorded(repository)
    repository.edit("agave/models/agave.py", '"""', '"""Reworded. ')
    log = repository.run("dvc", "repro")
    assert stages_run(log) == ["pretrain", "joint", "evaluate", "sample", "codec"]
    assert done(log) == {} and log.count("Nothing to be done") == 5
    assert recorded(repository) == before
    assert repository.to_do() == AT_REST


def test_clone_and_pull_need_no_job(repository: Repository, tmp_path: Path) -> None:
    repository.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    repository.commit()
    repository.run("dvc", "push")
    clone = Repository(tmp_path / "clone")
    repository.run("git", "clone", "--quiet", str(repository.folder), str(clone.folder))
    clone.run("dvc", "pull")
    assert clone.make("dvc-checkout").returncode == 0
    assert clone.to_do() == AT_REST
    assert clone.run("git", "status", "--porcelain") == ""
    weights = f"results/mini/joint/{STALE}/seed~0/model.safetensors"
    assert (clone.folder / weights).read_bytes() == (repository.folder / weights).read_bytes()
    (clone.folder / "pretrained").mkdir()
    (clone.folder / "pretrained/pixelcnn_pp").symlink_to(ROOT / "pretrained/pixelcnn_pp")  # the others take most of a minute
    verdict = clone.run("agave", "verify")
    assert "small files as recorded; of the weights and arrays" in verdict and "not here" not in verdict
    assert "nothing to be done for all" in verdict and "VERDICT: all is well" in verdict
    (clone.folder / "results/mini/figures/figure4.pdf").unlink()
    assert clone.to_do() == ({"figures", "records", "page"}, {"figures": 1, "write_records": 1, "write_page": 1})
    (clone.folder / weights).chmod(0o644)
    (clone.folder / weights).write_bytes(b"tampered")
    assert clone.changed_stages() >= {"joint"}
    assert clone.make("dvc-checkout").returncode != 0  # DVC does not overwrite what its cache does not hold
