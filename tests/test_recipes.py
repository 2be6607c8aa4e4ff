"""The recipes of CONTRIBUTING.md, each applied to a throw-away copy as the page says, and the annotated tree beside the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agave.csv_tables import read_table
from agave.results import CLAIMS
from agave.schemas import CLAIMS_SCHEMA

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(recipe: str) -> list[tuple[str, str]]:
    """The code blocks of a recipe, each with the last file that is named before it."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [one for one in section if one.startswith(f"Recipe: {recipe}\n")]
    found = []
    for match in re.finditer(r"^```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        (file, *_) = reversed(re.findall(r"`((?:agave|tests)/\S+\.py|claims\.yaml|params\.yaml)`", text[: match.start()]))
        found.append((file, match[1]))
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "agave", folder / "agave", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    for name in ("params.yaml", "claims.yaml", "pyproject.toml", "tests/conftest.py", "tests/test_systems.py", "tests/tracing.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def insert(path: Path, after: str, text: str) -> None:
    """Add lines after the first one that begins like this."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.startswith(after))
    path.write_text("".join([*lines[: place + 1], text, *lines[place + 1 :]]), encoding="utf-8")


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.integration
def test_a_system(copy: Path) -> None:
    (model, model_text), (registry, line), _, (test, test_text) = blocks("add a system")
    assert len(re.findall(r"^ +\S", model_text.partition("class ")[2], re.MULTILINE)) < 45
    (copy / model).write_text(model_text, encoding="utf-8")
    insert(copy / registry, "REGISTRY = {", line)
    (copy / test).write_text(test_text, encoding="utf-8")
    out = run(copy, "pytest", "-p", "no:cacheprovider", "tests/test_systems.py", test, "-k", "histogram")
    assert re.search(r"[5-9] passed", out) and "failed" not in out
    code = (
        "import agave.config, torch; from agave.models import make_model; "
        "model = make_model('histogram', agave.config.load('params.yaml', 'tiny'), 16); "
        "print(tuple(model.sample(2, seed=0).shape), float(model.log_prob(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))))"
    )
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(2, 3, 16, 16) -4258.")  # 768 values of log 1/256


def test_a_data_set(copy: Path) -> None:
    (source, source_text), (registry, imported), (_, line), (parameters, literal), (test, test_text) = blocks("add a data set")
    (copy / source).write_text(source_text, encoding="utf-8")
    insert(copy / registry, "from agave.data.interface", imported)
    insert(copy / registry, "SOURCES", line)
    text, number = re.subn(r"^    source: Literal\[.*\n", literal, (copy / parameters).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert number == 1
    (copy / parameters).write_text(text, encoding="utf-8")
    (copy / test).write_text(test_text, encoding="utf-8")
    assert "1 passed" in run(copy, "pytest", "-p", "no:cacheprovider", test)
    assert '"my_set"' in run(copy, "agave.cli", "config", "--schema")

    params = (copy / "params.yaml").read_text(encoding="utf-8")
    (copy / "params.yaml").write_text(params + "\nmine:\n  prepare: {source: my_set}\n", encoding="utf-8")
    command = ["agave.cli", "prepare", "--preset", "mine", "--output", "out"]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False
    )
    assert done.stderr == "error: data/my_set.npz: not there; get it from https://example.org/my_set.npz\n"
    (copy / "data").mkdir()
    np.savez(copy / "data/my_set.npz", images=np.random.default_rng(0).integers(0, 256, (3000, 32, 32, 3), np.uint8))
    assert "my set test (500): 500 images of 32 pixels squared" in run(copy, *command)
    manifest = json.loads((copy / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"] == "my_set" and manifest["train"]["images"] == 2500 and manifest["licence"] == "CC BY 4.0."


@pytest.mark.integration
def test_a_claim(copy: Path) -> None:
    (measures, function), (_, line), (claims, entry), (_, test_text) = blocks("add a claim")
    text = (copy / measures).read_text(encoding="utf-8")
    (copy / measures).write_text(text.replace("\nPER_IMAGE: ", f"\n{function}\n\nPER_IMAGE: "), encoding="utf-8")
    insert(copy / measures, "PER_IMAGE", line)
    with (copy / claims).open("a", encoding="utf-8") as file:
        file.write("\n" + entry)
    head = '"""The example of the recipe."""\n\nimport numpy as np\n\nfrom agave import measures\n\n\n'
    (copy / "tests/test_measure.py").write_text(head + test_text, encoding="utf-8")
    assert "1 passed" in run(copy, "pytest", "-p", "no:cacheprovider", "tests/test_measure.py")

    results = copy / "results/tiny"
    made = f"import sys; sys.path.append({str(ROOT / 'tests')!r})\nimport fake_results, pathlib\nfrom agave.config import load\n"
    (copy / "made.py").write_text(made + "fake_results.write_results(load('params.yaml', 'tiny'), pathlib.Path('results/tiny'))\n")
    run(copy, "made")
    run(copy, "agave.cli", "tables", "--preset", "tiny", "--results", "results/tiny")
    assert "C33" in run(copy, "agave.cli", "claims", "--preset", "tiny", "--results", "results/tiny")
    rows = read_table(results / CLAIMS, CLAIMS_SCHEMA).query("id == 'C33'")
    assert set(rows["comparison"]) == {"λ 2", "λ 8"} and set(rows["measure"]) == {"reconstruction_brightness"}


def test_every_module_and_package_is_in_the_tree() -> None:
    tree = re.findall(r"^```text\n(agave/\n.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0]
    lines = tree.splitlines()[1:]
    assert all(re.match(r"^ {2,4}\S+ {2,}\S", line) for line in lines)
    named = [line.split()[0] for line in lines if re.match(r" {2}\S", line)]
    package = ROOT / "agave"
    there = {path.name for path in package.glob("*.py")} | {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert len(named) == len(set(named)) and set(named) == there
    folder = ""
    for line in lines:  # what stands below a package lies in it
        name = line.split()[0]
        if re.match(r" {2}\S", line):
            folder = name
        else:
            assert (package / folder / name).exists(), f"{folder}{name}"


def test_a_recipe_touches_at_most_three_files_beside_its_test() -> None:
    for recipe in re.findall(r"^## Recipe: (.*)$", PAGE, re.MULTILINE):
        assert len({file for file, _ in blocks(recipe) if not file.startswith("tests/")}) <= 3, recipe
