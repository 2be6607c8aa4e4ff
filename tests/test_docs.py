"""The pages: generated ones are up to date, links lead somewhere, the site asks no other server."""

import ast
import importlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from agave import config, figures, grid, presets, results, tables
from agave.models import make_model
from agave.models.files import describe_model
from agave.page import files as page_files
from agave.runtime.checkpoints import write_tensors
from agave.steps import STEPS, records, trainings

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


@pytest.fixture(autouse=True)
def _generators(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "docs"))


@pytest.mark.parametrize(
    ("module", "write", "file"),
    [
        ("deviations", "document", "deviations.md"),
        ("configuration", "document", "configuration.md"),
        ("costs", "document", "gpu.md"),
        ("dataflow", "picture", "dataflow.svg"),
    ],
)
def test_generated_pages_are_up_to_date(root, module, write, file):
    assert (root / "docs" / file).read_text() == getattr(importlib.import_module(module), write)(), "run `make docs`"


def test_deviations_are_the_tags_of_the_code():
    text = importlib.import_module("deviations").document()
    assert text.count("\n- ") >= 30 and "`paper.joint.batch`" in text


def test_every_parameter_is_in_the_reference(root):
    text = (root / "docs/configuration.md").read_text()
    keys = [key for key, _ in presets.flatten(config.load(root / "params.yaml", "paper").model_dump())]
    sections = re.split(r"^##+ ", text, flags=re.MULTILINE)
    for key in keys:
        block, _, name = key.rpartition(".")
        rows = [line for section in sections if section.startswith(f"{block}\n") for line in section.splitlines()]
        row = next(line for line in rows if line.startswith(f"| `{name}` |"))
        assert all(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:5]), f"{key}: a description is missing in agave/config.py"


def test_every_step_is_in_the_picture_and_on_the_page(root):
    picture = (root / "docs/dataflow.svg").read_text()
    page = (root / "docs/how-it-works.md").read_text()
    for step in STEPS:
        assert f">{step}</text>" in picture and f"\n| {step} | " in page, step


def test_the_picture_shows_what_the_steps_read(root):
    params = config.load(root / "params.yaml", "tiny")
    steps = importlib.import_module("dataflow").steps()
    named = {
        "trainings": trainings.inputs(params),
        "tables": tables.inputs(params),
        "figures": [path for name in figures.NAMES for path in figures.inputs(name, params)],
        "claims": results.claim_inputs(params),
        "records": records.inputs(params),
        "page": page_files.inputs(params),
    }
    read = {step: {path.split("/")[0] for path in paths} for step, paths in named.items()}
    for step in ("joint", "evaluate", "sample"):
        rules = (root / f"workflow/rules/{step}.smk").read_text()
        found = set(re.findall(r"results/\{preset\}/(\w+)/", "".join(re.findall(r"    input:(.*?)    output:", rules, re.DOTALL))))
        read[step] = found - {step} | ({"pretrain"} if "pretrained_files" in rules else set())
    assert {step: set(steps[step].reads) for step in read} == read


def test_links_and_files_of_the_pages_exist(root):
    for page in [*root.glob("*.md"), *(root / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_is_built_with_every_link_and_asks_no_other_server(root, tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem: path.read_text() for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in (root / "docs").glob("*.md")} <= pages.keys()
    for name, text in pages.items():  # what a page loads by itself: scripts, styles, images
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*?\ssrc=\"([^\"]+)|<link[^>]*?\shref=\"([^\"]+)", text)
        assert loaded and not [url for pair in loaded for url in pair if url.startswith(("http", "//"))], name
    assert (tmp_path / "site/repository/params.yaml.txt").read_text() == (root / "params.yaml").read_text()


@pytest.mark.parametrize("link", ["[x](absent.md)", "[x](../absent.yaml)", "[x](dvc.md#absent)"])
def test_a_broken_link_fails_the_build(root, tmp_path, link):
    (tmp_path / "docs").mkdir()
    for name in ("hooks.py", "site.css"):
        (tmp_path / "docs" / name).write_text((root / "docs" / name).read_text())
    options = (root / "mkdocs.yml").read_text().partition("\nnav:\n")[0]
    (tmp_path / "mkdocs.yml").write_text(options)
    (tmp_path / "docs/dvc.md").write_text("# DVC\n")
    (tmp_path / "docs/index.md").write_text(f"# Home\n\n{link}\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "absent" in done.stdout + done.stderr


def test_make_targets_of_the_pages_exist(root):
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for page in [*root.glob("*.md"), *(root / "docs").glob("*.md")]:
        named = set(re.findall(r"(?:`|^    )make ([a-z][a-z-]+)\b", page.read_text(), re.MULTILINE))
        assert named <= targets, f"{page.name}: {sorted(named - targets)}"


@pytest.mark.parametrize("page", ["README.md", "docs/how-to.md"])
def test_the_python_of_the_pages_runs(root, page, tmp_path, monkeypatch, capsys):
    """With a small untrained model where the page has a trained one."""
    (code,) = re.findall(r"```python\n(import numpy.*?)```", (root / page).read_text(), re.DOTALL)
    data, weights = re.findall(r'"((?:results/demo|pretrained|work)/\S+)"', code)
    params, tiny = (config.load(root / "params.yaml", preset) for preset in ("demo", "tiny"))
    params = params.model_copy(update={"model": tiny.model})
    cell = grid.parse_cell(next(part for part in weights.split("/") if part.startswith("kl_weight")), params.prepare.image_size)
    assert cell in grid.all_cells(params)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    model = make_model(cell.system, params, 32, resolution=cell.resolution, levels=cell.levels)
    model.initialise(x, x)
    for path in (data, weights):
        (tmp_path / path).parent.mkdir(parents=True)
    np.save(tmp_path / data, pixels)
    write_tensors(tmp_path / weights, model.state_dict(), describe_model(cell, params))
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(compile(code, page, "exec"), found)
    assert found["nats"].shape == (8,) and found["nats"].dtype == torch.float64
    assert found["drawn"].shape == (16, 3, 32, 32) and found["means"].shape == (8, 3, 32, 32)
    if page == "README.md":
        assert found["bits_per_dim"].shape == (8,) and (found["bits_per_dim"] > 0).all()
        assert len([line for line in code.splitlines() if line]) <= 10
    else:
        assert capsys.readouterr().out == "agave elbo\n"


def test_words_of_the_house(root):
    """CPU, never processor; descriptions of arguments name a thing and do not begin with "of"."""
    for path in (root / "agave").rglob("*.py"):
        docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, DOCUMENTED)]
        for text in docstrings:
            assert not re.search(r"\bprocessors?\b", text), f"{path}: {text}"
            assert not re.search(r"^ {4}\S+: of ", text, re.MULTILINE), f"{path}: {text}"
    for page in [*root.glob("*.md"), *(root / "docs").glob("*.md")]:
        assert not re.search(r"\bprocessors?\b", page.read_text()), page.name


def test_citation_and_licence(root):
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["license"] == "MIT" and "MIT License" in (root / "LICENSE").read_text()
