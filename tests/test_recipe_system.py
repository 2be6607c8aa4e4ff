"""The recipe "add a system" of CONTRIBUTING.md through the workflow: from a file, a registration and a parameter to a row of Table 1."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_recipes import blocks, insert

ROOT = Path(__file__).resolve().parents[1]
SMALLEST = "  grid: {kl_weights: [8], table_kl_weight: 8, levels: [256], resolutions: [], without_auxiliary_kl_weight: null}\\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the new system, and the smallest grid that has a Table 1."""
    folder = tmp_path_factory.mktemp("copy") / "checkout"
    folder.mkdir()
    for name in ("agave", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    for name in ("Snakefile", "claims.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    (model, model_text), (registry, line), (params, block), _ = blocks("add a system")
    (folder / model).write_text(model_text, encoding="utf-8")
    insert(folder / registry, "REGISTRY = {", line)
    text = (folder / params).read_text(encoding="utf-8")
    text = re.sub(r"(?m)^(tiny:.*\n(?:.*\n)*?)  grid:\n(?:    .*\n)+", rf"\g<1>{SMALLEST}", text)
    before, tiny = text.split("\ntiny:")
    tiny, named = re.subn(r"(?m)^  table1:\n", lambda found: found[0] + block, tiny)
    assert named == 1
    (folder / params).write_text(f"{before}\ntiny:{tiny}", encoding="utf-8")
    return folder


def run(copy: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_new_system_is_listed_and_planned(copy: Path) -> None:
    assert "histogram" in run(copy, "agave", "models", "--preset", "tiny")
    assert "joint_cell" in run(copy, "agave", "plan", "--preset", "tiny")


@pytest.mark.integration
def test_the_new_system_gets_a_row_in_table_1(copy: Path) -> None:
    run(copy, "snakemake", "tables", "sample", "--profile", "workflow/profiles/local", "--config", "preset=tiny")
    table = pd.read_csv(copy / "results/tiny/tables/table1.csv").set_index("model")
    row = table.loc["histogram"]
    assert row["our_model"] == "histogram" and pd.isna(row["our_bound"]) and row["our_images"] == table.loc["pixCNN++", "our_images"]
    assert 7.0 < row["our_bits_per_dim"] < 8.0  # better than uniform, and it cannot be much better
    assert row["our_difference_to_pixelcnn_pp_low"] <= row["our_difference_to_pixelcnn_pp"] <= row["our_difference_to_pixelcnn_pp_high"]
    assert (copy / "results/tiny/sample/histogram/seed~0/measures.npz").exists()
