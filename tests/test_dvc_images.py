"""A change of the user's own images is noticed by Snakemake and by DVC, for an array file and for a folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_dvc import Repository, done, stages_run
from test_workflow import ROOT, check_out, jobs

pytestmark = pytest.mark.integration

MINE = """
mine:
  prepare: {source: images, path: my images.npz, image_size: 8}
  model:
    vae: {blocks: 1, hidden: 4, latent: 4}
    pixelcnn_pp: {filters: 4, resnets: 1, mixtures: 1, resolutions: 1, dropout: 0.0, stream_channels: 4}
  compute: {device: cpu, precision: float32}
  pretrain: {vae: {init_images: 8}, pixelcnn_pp: {init_images: 8}}
  joint: {init_images: 8}
  table1: {systems: []}
  grid: {resolutions: []}
  evaluate: {iwae_images: 2}
  sample: {images: 2, completion_rows: 4}
  figures: {}
"""
PREPARED = {"prepare_images": 1}


def pictures(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 8, 8, 3), np.uint8)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A checkout whose preset `mine` has images of its own; nothing has run."""
    found = Repository(check_out(tmp_path / "repository"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, found.folder)
    shutil.copytree(ROOT / ".dvc", found.folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    params = (found.folder / "params.yaml").read_text(encoding="utf-8")
    (found.folder / "params.yaml").write_text(re.sub("^preset: demo", "preset: mine", params, flags=re.MULTILINE) + MINE, encoding="utf-8")
    found.run("git", "init", "--quiet")
    return found


def changed(repository: Repository) -> tuple[bool, dict[str, int]]:
    """Whether DVC sees the stage `prepare` changed, and the jobs that Snakemake plans for it."""
    planned = jobs(repository.try_to("snakemake", "--dry-run", "prepare"))
    planned.pop("prepare", None)
    return "prepare" in repository.run("dvc", "status", "--json", "prepare").splitlines()[-1], planned


def test_a_changed_array_file_is_noticed(repository: Repository) -> None:
    np.savez(repository.folder / "my images.npz", images=pictures(0))
    assert done(repository.run("dvc", "repro", "prepare")) == PREPARED
    assert done(repository.run("dvc", "repro", "prepare")) == {}  # now DVC knows the path
    assert changed(repository) == (False, {})
    np.savez(repository.folder / "my images.npz", images=pictures(1))
    assert changed(repository) == (True, PREPARED)
    log = repository.run("dvc", "repro", "prepare")
    assert (done(log), stages_run(log)) == (PREPARED, ["prepare"])
    assert changed(repository) == (False, {})


def test_a_changed_folder_is_noticed(repository: Repository) -> None:
    folder = repository.folder / "pictures"
    folder.mkdir()
    for place, picture in enumerate(pictures(0)):
        Image.fromarray(picture).save(folder / f"{place:02}.png")
    repository.edit("params.yaml", "my images.npz", "pictures")
    assert done(repository.run("snakemake", "prepare")) == PREPARED
    repository.run("dvc", "commit", "--force", "--quiet", "prepare")
    assert changed(repository) == (False, {})
    Image.fromarray(pictures(1)[0]).save(folder / "03.png")
    assert changed(repository) == (True, PREPARED)
    assert done(repository.run("dvc", "repro", "prepare")) == PREPARED
    assert changed(repository) == (False, {})
    (folder / "05.png").unlink()
    assert changed(repository) == (True, PREPARED)
