"""The command line in odd surroundings: it works, or says in one line why it cannot. Where the surroundings are made: surroundings.py."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import surroundings
from surroundings import Surroundings
from test_workflow import ROOT, expected, jobs

from agave import config
from agave.provenance import code_digest
from agave.steps.prepare import prepare

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """An empty folder that any user can enter; pytest's own is private."""
    folder = Path(tempfile.mkdtemp(prefix="agave-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=surroundings.EVERY, ids=lambda make: make.__name__)
def found(request: pytest.FixtureRequest, place: Path) -> Surroundings:
    """Each of the surroundings."""
    make: Callable[[Path], Surroundings] = request.param
    (place / make.__name__).mkdir()
    return make(place / make.__name__)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What `agave prepare` writes in the surroundings of the tests."""
    folder = tmp_path_factory.mktemp("usual")
    prepare(config.load(ROOT / "params.yaml", "tiny"), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_printed_is_the_same(found: Surroundings) -> None:
    for arguments, text in ((["--help"], "Reproduce"), (["config"], "prepare.source"), (["plan", "--preset", "paper"], "estimated for")):
        done = found.agave(*arguments)
        assert done.returncode == 0, done.stdout
        assert text in done.stdout
        assert "Traceback" not in done.stdout
    done = found.agave("digest", "pretrain")
    assert done.stdout.split()[0] == code_digest.digest("pretrain"), done.stdout


def test_the_prepared_images_are_the_same(found: Surroundings, usual: dict[str, bytes]) -> None:
    output = found.free / "prepared λ"
    done = found.agave("prepare", "--preset", "tiny", "--output", output)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.name != "run.json"} == usual
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert record["source"] == code_digest.digest("prepare")


def test_own_images_with_an_odd_name_are_prepared(found: Surroundings) -> None:
    path = found.free / "meine {bilder} ü λ.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), np.uint8))
    done = found.agave("prepare", "--preset", "tiny", "--images", path, "--output", found.free / "own")
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    manifest = json.loads((found.free / "own/manifest.json").read_text(encoding="utf-8"))
    assert manifest["train"]["images"] == 40


def test_the_workflow_is_planned_the_same(found: Surroundings) -> None:
    done = found.snakemake("-n", "all", "--config", "preset=tiny")
    assert "Traceback" not in done.stdout, done.stdout
    if found.read_only:
        assert done.returncode == 1
        assert done.stdout.splitlines()[-1] == (
            f"error: {found.checkout}: Snakemake cannot write its records there; accepted: a copy of the checkout that is yours"
        )
    else:
        assert jobs(done) == expected("tiny")


def test_where_nothing_can_be_written_it_is_said_in_one_line(found: Surroundings) -> None:
    done = found.agave("prepare", "--preset", "tiny", "--output", "/proc/images")
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1, done.stdout
    assert "/proc/images" in done.stdout and "not written" in done.stdout


@pytest.mark.parametrize("make", [surroundings.unknown_user, surroundings.read_only_checkout, surroundings.inherited_launcher])
def test_a_training_runs(make: Callable[[Path], Surroundings], place: Path) -> None:
    folder = place / f"training-{make.__name__}"
    folder.mkdir()
    found = make(folder)
    params = found.free / "params.yaml"
    params.write_text((ROOT / "params.yaml").read_text(encoding="utf-8").replace("steps: 20,", "steps: 2,"), encoding="utf-8")
    assert found.agave("prepare", "--params", params, "--preset", "tiny", "--output", found.free / "data").returncode == 0
    folders = ["--data", found.free / "data", "--output", found.free / "model", "--state-dir", found.free / "work"]
    done = found.agave("pretrain", "pixelcnn_pp", "--params", params, "--preset", "tiny", *folders)
    assert "Traceback" not in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout
    assert (found.free / "model/model.safetensors").exists()
