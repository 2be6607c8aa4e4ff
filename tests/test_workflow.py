"""What Snakemake plans, without running any step: plans need neither torch nor results."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from agave import config, config_schema, figures, grid, presets
from agave.cli import main
from agave.provenance import code_digest
from agave.steps import STEPS

ROOT = Path(__file__).parents[1]
PRESETS = ("paper", "study", "demo", "tiny")


def check_out(folder: Path) -> Path:
    for name in ("workflow", "agave"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "params.yaml", "claims.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / "slurm").symlink_to("workflow/profiles/slurm")
    return folder


def snakemake(folder: Path, *arguments: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")} | {"PYTHONPATH": str(folder)}
    command = [sys.executable, *python, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def jobs(plan: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Number of jobs of each rule; the figures are counted together, the targets not at all."""
    assert plan.returncode == 0, plan.stdout
    if "Nothing to be done" in plan.stdout:
        return {}
    table = re.search(r"^Job stats:\n(.*?)^total", plan.stdout, re.MULTILINE | re.DOTALL)
    assert table is not None, plan.stdout
    found: dict[str, int] = {}
    for rule, count in re.findall(r"^(\w+) +(\d+)$", table[1], re.MULTILINE):
        if rule != "all":
            name = "figures" if rule.startswith("figure_") else rule
            found[name] = found.get(name, 0) + int(count)
    return found


def expected(preset: str) -> dict[str, int]:
    params = config.load(ROOT / "params.yaml", preset)
    every, seeds = grid.all_cells(params), len(params.grid.seeds)
    return {
        "prepare_images": 1,
        "pretrain_pixelcnn_pp": seeds,
        "pretrain_vae": seeds * len({params.prepare.image_size, *(cell.resolution for cell in params.grid.resolutions)}),
        "joint_cell": seeds * len(every),
        "gather_trainings": 1,
        "evaluate_bound": seeds * len(every),
        "evaluate_iwae": seeds * len(grid.sampled_cells(params)) * (10 if preset == "paper" else 1),  # its profile scatters the images
        "gather_iwae": seeds * len(grid.sampled_cells(params)),
        "sample_cell": seeds * len(every),
        "codec_cell": len(grid.codec_cells(params)),
        "compress_with_formats": 1,
        "write_tables": 1,
        "figures": len(figures.NAMES),
        "decide_claims": 1,
        "write_records": 1,
        "write_page": 1,
    }


@pytest.mark.parametrize("preset", ["study", "demo"])
def test_every_cell_of_the_grid_is_planned_once(preset: str, tmp_path: Path) -> None:
    assert jobs(snakemake(check_out(tmp_path), "-n", "all", "--config", f"preset={preset}")) == expected(preset)


def test_paper_preset_on_slurm_plans_fast_and_without_the_networks(tmp_path: Path) -> None:
    check_out(tmp_path)
    began = time.monotonic()
    plan = snakemake(tmp_path, "--profile", "slurm", "-n", "all", python=("-X", "importtime"))
    assert time.monotonic() - began < 30  # a few seconds where nothing else runs
    assert jobs(plan) == expected("paper")
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", plan.stdout, re.MULTILINE))
    assert "agave.config" in imported
    assert not imported & {"torch", "seaborn", "matplotlib", "agave.models.agave"}
    asked = dict(re.findall(r"^rule (\w+):\n(.*?)\n\[", plan.stdout, re.MULTILINE | re.DOTALL))
    gpu_jobs = {rule for rule, text in asked.items() if "gpu=1" in text}
    assert gpu_jobs == {
        "pretrain_vae",
        "pretrain_pixelcnn_pp",
        "joint_cell",
        "evaluate_bound",
        "evaluate_iwae",
        "sample_cell",
        "codec_cell",
    }


def test_the_images_of_a_bound_are_scattered_over_as_many_jobs_as_asked_for(tmp_path: Path) -> None:
    check_out(tmp_path)
    planned, bounds = expected("tiny"), len(grid.sampled_cells(config.load(ROOT / "params.yaml", "tiny")))
    plan = snakemake(tmp_path, "-n", "all", "--set-scatter", "iwae=4", "--config", "preset=tiny")
    assert jobs(plan) == planned | {"evaluate_iwae": 4 * bounds, "gather_iwae": bounds}
    many = snakemake(tmp_path, "-n", "all", "--set-scatter", "iwae=5", "--config", "preset=tiny")
    assert many.returncode == 1
    assert "error: --set-scatter iwae=5: only 4 images are evaluated; accepted: 1 to 4" in many.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the preset `tiny` has run, as far as Snakemake can tell."""
    folder = check_out(tmp_path_factory.mktemp("finished"))
    plan = snakemake(folder, "-n", "all", "--config", "preset=tiny")
    assert jobs(plan) == expected("tiny")
    for line in re.findall(r"^    output: (.*)$", plan.stdout, re.MULTILINE):
        for name in line.split(", "):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    done = snakemake(folder, "--touch", "--forceall", "--cores", "1", "all", "--config", "preset=tiny")
    assert done.returncode == 0, done.stdout
    return folder


PAGES = {"write_tables": 1, "decide_claims": 1, "write_records": 1, "write_page": 1}
DRAWN = {"gather_trainings": 1, "figures": len(figures.NAMES) - 1} | PAGES  # Figure 2 shows the model, no result
UNGROWN = {"gather_trainings": 1, "figures": len(figures.NAMES) - 2} | PAGES  # an edit of a cell outside of Table 1 is not in the growth
REDRAWN = {"figures": len(figures.NAMES) - 2} | PAGES  # nor have the training curves changed
FIGURES = {"figures": len(figures.NAMES), "write_records": 1, "write_page": 1}
IWAE_CELLS = expected("tiny")["evaluate_iwae"]
TINY = config.load(ROOT / "params.yaml", "tiny")
GRID, TABLED = len(grid.all_cells(TINY)) - len(grid.further_cells(TINY)), len(grid.table_cells(TINY))
ONE_SYSTEM = dict.fromkeys(("joint_cell", "evaluate_bound", "evaluate_iwae", "gather_iwae", "sample_cell"), 1) | UNGROWN


@pytest.mark.parametrize(
    ("file", "old", "new", "planned"),
    [
        ("params.yaml", "preset: demo ", "preset: tiny ", {}),
        (
            "params.yaml",
            "kl_weights: [2, 8]",
            "kl_weights: [3, 8]",
            {"prune": 1, "joint_cell": 1, "evaluate_bound": 1, "sample_cell": 1, "codec_cell": 1} | UNGROWN,
        ),
        ("params.yaml", "kl_weights: [2, 8]", "kl_weights: [8]", {"prune": 1} | UNGROWN),
        ("params.yaml", "iwae_samples: 2", "iwae_samples: 3", {"evaluate_iwae": IWAE_CELLS, "gather_iwae": IWAE_CELLS} | REDRAWN),
        ("params.yaml", "evaluate: {batch: 16", "evaluate: {batch: 8", {}),
        (
            "params.yaml",
            "joint: {steps: 10,",
            "joint: {steps: 11,",
            dict.fromkeys(("joint_cell", "evaluate_bound", "sample_cell"), GRID)
            | dict.fromkeys(("evaluate_iwae", "gather_iwae"), TABLED)
            | {"codec_cell": 4}
            | DRAWN,
        ),
        ("params.yaml", "nice: {hidden: 32", "nice: {hidden: 31", ONE_SYSTEM),
        ("agave/models/nice.py", "from __future__ import annotations\n", "from __future__ import annotations\n\nANOTHER = 1\n", ONE_SYSTEM),
        ("params.yaml", "dpi: 200", "dpi: 100", FIGURES),
        ("agave/models/agave.py", '"""', '"""Another word. ', {}),
        ("agave/figures/style.py", "WIDTH = ", "WIDTH = 1 + ", FIGURES),
    ],
)
def test_an_edit_plans_what_depends_on_it_and_nothing_else(finished: Path, file: str, old: str, new: str, planned: dict[str, int]) -> None:
    path = finished / file
    text = path.read_text()
    preset = text.rindex(old) if file == "params.yaml" else text.index(old)  # `tiny` is the last preset of the file
    path.write_text(text[:preset] + new + text[preset + len(old) :])
    try:
        assert jobs(snakemake(finished, "-n", "all", "--config", "preset=tiny")) == planned
    finally:
        path.write_text(text)


def test_the_report_needs_finished_results_and_nothing_else(finished: Path) -> None:
    assert jobs(snakemake(finished, "-n", "report", "--config", "preset=tiny")) == {"report_pages": 1, "report": 1}


@pytest.mark.parametrize(
    ("old", "new", "option", "message"),
    [
        ("kl_weights: [2, 8]", "kl_weights: [-2, 8]", "preset=tiny", "tiny.grid.kl_weights.0: -2; accepted: a number from 0 to 1000"),
        ("iwae_samples: 2", "iwae_sample: 2", "preset=tiny", "tiny.evaluate.iwae_sample: unknown key; accepted: batch, iwae_samples"),
        ("levels: [256, 32]", "levels: [256, 33]", "preset=demo", "tiny.grid: levels 33 does not divide 256; accepted: 2, 4"),
        ("joint: {steps: 10,", "joint: {steps: '10',", "preset=tiny", "tiny.joint.steps: '10' is text; accepted: an integer of at least 1"),
        ("joint: {steps: 10,", "joint: {steps: 10, steps: 9,", "preset=demo", "tiny.joint.steps: the key stands in line"),
        ("learning_rate: 0.007,", "learning_rate: 7e-3,", "preset=tiny", "7e-3 is text in YAML 1.1 and a number in YAML 1.2, write 7.0e-3"),
        ("tiny:", "on:", "preset=demo", "a key that is not text: on is a truth value"),
        ("tiny:", "images:", "preset=demo", "images: an option of the command line has this name"),
        ("tiny:", "tiny: [", "preset=demo", "not valid YAML"),
        ("image_size: 16", "image_size: 10", "preset=demo", "image_size 10 is not divisible by 4, which the claims need"),
        ("", "", "images=5", "--config images=5: not text; accepted"),
        ("", "", "tflops=true", "--config tflops=true; accepted: a positive number"),
        ("", "", "preset=huge", "there is no preset 'huge'; accepted: paper, study, demo, tiny"),
        ("", "", "images=absent.npz", "images absent.npz: there is no such file or folder; accepted: an .npz"),
        ("", "", "presets=demo", "--config presets=...: not accepted; accepted: preset=NAME"),
    ],
)
def test_a_wrong_parameter_is_one_message_and_nothing_is_written(tmp_path: Path, old: str, new: str, option: str, message: str) -> None:
    params = check_out(tmp_path) / "params.yaml"
    text = params.read_text()
    place = text.rindex(old)
    params.write_text(text[:place] + new + text[place + len(old) :])
    done = snakemake(tmp_path, "all", "--cores", "1", "--config", option)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    if old:  # the command line says the same
        told = CliRunner().invoke(main, ["config", "--params", str(params), "--preset", "demo"])
        assert told.exit_code == 1 and told.output.replace(str(params), "params.yaml").splitlines() == lines
    assert not (tmp_path / "results").exists()


def test_a_checkout_may_lie_in_a_folder_of_any_name_but_with_a_colon(tmp_path: Path) -> None:
    odd = tmp_path / "{a} $b 'c'"
    odd.mkdir()
    done = snakemake(check_out(odd), "prepare", "--cores", "1", "--config", "preset=tiny")
    assert done.returncode == 0 and (odd / "results/tiny/prepare/manifest.json").exists(), done.stdout
    colon = tmp_path / "a:b"
    colon.mkdir()
    shutil.copy(ROOT / "Makefile", colon)
    made = subprocess.run(["make", "demo"], cwd=colon, capture_output=True, text=True)
    assert made.returncode != 0 and "has a colon in its path" in made.stderr and made.stderr.count("\n") == 1


def test_schema_is_the_one_that_the_parameters_generate() -> None:
    committed = (ROOT / "workflow/schemas/params.schema.json").read_text()
    assert committed == config_schema.schema_text(config.Params, presets.COMPLETE), "write it anew with: make schema"


def edited(document: dict[str, Any], preset: str, key: str, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    *blocks, last = key.split(".")
    place = changed[preset]
    for name in blocks:
        place = place.setdefault(name, {})
    place[last] = value
    return changed


@pytest.mark.parametrize("preset", ["paper", "tiny"])
@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("joint.steps", 2000, True),
        ("joint.steps", 0, False),
        ("joint.step", 5, False),
        ("joint.learning_rate", "fast", False),
        ("grid.kl_weights", [], False),
        ("grid.resolutions", [{"resolution": 16}], False),
        ("grid.without_auxiliary_kl_weight", None, True),
        ("model.pixelcnn_pp.dropout", 1.0, False),
        ("prepare.source", "imagenet", False),
        ("figure", {}, False),
    ],
)
def test_schema_and_parameters_give_the_same_verdict(preset: str, key: str, value: object, accepted: bool) -> None:
    document = edited(config.read(ROOT / "params.yaml"), preset, key, value)
    validator = jsonschema.Draft202012Validator(config_schema.json_schema(config.Params, presets.COMPLETE))
    assert validator.is_valid(document) is accepted
    if accepted:
        config.resolve(document, preset)
    else:
        with pytest.raises(presets.ConfigError):
            config.resolve(document, preset)


def test_dvc_has_a_stage_for_each_step_that_depends_on_its_code() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert [*stages, "report"] == list(STEPS)  # the report shows results, it is none
    for step, stage in stages.items():
        assert stage["cmd"] == f"snakemake {step} --config preset=${{preset}}"
        code = {dependency for dependency in stage["deps"] if dependency.startswith("agave/")}
        assert code == {str(file) for file in code_digest.files(step)}, f"the files of `agave digest {step}` belong into dvc.yaml"
        assert all(options["persist"] for out in stage["outs"] for options in out.values())
