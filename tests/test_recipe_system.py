"""The recipe "add a system" of CONTRIBUTING.md, tried: thirty lines, one line of registration, and the row stands in Table 1."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

TOY = '''"""Sub-pixels that know nothing of each other: one categorical distribution a colour channel. An example of a system."""

import torch
from torch import nn

from agave.models.interface import LikelihoodModel, Terms


class ColourHistogram(LikelihoodModel):
    """log p(x) = sum over sub-pixels of log_softmax(logits[channel])[value]."""

    system = "colour_histogram"
    bound = "exact"

    def __init__(self, image_size):
        super().__init__(image_size)
        self.logits = nn.Parameter(torch.zeros(3, 256))

    @classmethod
    def from_options(cls, options, image_size, *, resolution=None, levels=256):
        return cls(image_size)

    def log_prob_subpixels(self, x_uint8):
        values = self._for_likelihood(self.logits).log_softmax(1)  # (3, 256)
        return torch.stack([values[c][x_uint8[:, c].long()] for c in range(3)], dim=1)  # (B, 3, H, W)

    def terms(self, encoding, x_uint8, y_uint8, noise):
        zero = torch.zeros(len(x_uint8), device=x_uint8.device)
        return Terms(zero, self.log_prob_subpixels(x_uint8).sum((1, 2, 3)), None, zero.sum())

    def initialise(self, x_uint8, y_uint8=None, pretrained=()):
        pass

    @torch.inference_mode()
    def sample(self, count, *, seed, first=0, options=None, label=None):
        size, drawn = self.image_size, []
        for image in range(first, first + count):
            generator = torch.Generator().manual_seed(1_000_003 * seed + image)
            drawn.append(torch.multinomial(self.logits.softmax(1), size * size, replacement=True, generator=generator))
        return torch.stack(drawn).view(count, 3, size, size).to(torch.uint8)
'''
REGISTRATION = """    "colour_histogram": Registration("agave.models.colour_histogram:ColourHistogram", "exact", "Independent sub-pixels."),
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the new system, and the smallest grid that has a Table 1."""
    folder = tmp_path_factory.mktemp("copy") / "checkout"
    folder.mkdir()
    for name in ("agave", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    for name in ("Snakefile", "claims.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "agave/models/colour_histogram.py").write_text(TOY)
    registry = folder / "agave/models/__init__.py"
    text = registry.read_text()
    end = text.index("}\n", text.index("REGISTRY = {"))
    registry.write_text(text[:end] + REGISTRATION + text[end:])
    document = yaml.safe_load((folder / "params.yaml").read_text())
    tiny = document["tiny"]
    tiny["grid"] = {"kl_weights": [8], "table_kl_weight": 8, "levels": [256], "resolutions": [], "without_auxiliary_kl_weight": None}
    tiny["table1"] = {"systems": ["colour_histogram"], "training": tiny["joint"] | {"steps": 300, "learning_rate": 0.1}}
    (folder / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


def run(copy: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_new_system_is_listed_and_planned(copy: Path) -> None:
    assert "colour_histogram" in run(copy, "agave", "models", "--preset", "tiny")
    assert "joint_cell" in run(copy, "agave", "plan", "--preset", "tiny")


@pytest.mark.integration
def test_the_new_system_gets_a_row_in_table_1(copy: Path) -> None:
    run(copy, "snakemake", "tables", "sample", "--profile", "workflow/profiles/local", "--config", "preset=tiny")
    table = pd.read_csv(copy / "results/tiny/tables/table1.csv").set_index("model")
    row = table.loc["colour_histogram"]
    assert row["our_model"] == "colour_histogram" and pd.isna(row["our_bound"]) and row["our_images"] == table.loc["pixCNN++", "our_images"]
    assert 7.0 < row["our_bits_per_dim"] < 8.0  # better than uniform, and it cannot be much better
    assert row["our_difference_to_pixelcnn_pp_low"] <= row["our_difference_to_pixelcnn_pp"] <= row["our_difference_to_pixelcnn_pp_high"]
    assert (copy / "results/tiny/sample/colour_histogram/seed~0/samples.npz").exists()
