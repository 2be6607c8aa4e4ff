"""Short commands in copies of one process: the same files, messages and exit codes as by themselves, and the same end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from agave import cli_shared_process

AGAVE = str(Path(sys.executable).parent / "agave")
CELL = "kl_weight~12-levels~256-resolution~32"


@pytest.fixture(scope="module")
def data(root, tmp_path_factory):
    """Images, and a preset whose importance-sampled bound takes long."""
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "images.npz", images=np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), np.uint8))
    (folder / "params.yaml").write_text((root / "params.yaml").read_text().replace("iwae_samples: 10}", "iwae_samples: 500}"))
    done = run("prepare", "--preset", "demo", "--images", folder / "images.npz", "--output", folder, cwd=root)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def shared(root, monkeypatch):
    """A shared process that is ready."""
    monkeypatch.setenv(cli_shared_process.VARIABLE, "")
    monkeypatch.chdir(root)
    with cli_shared_process.start() as process:
        path = Path(os.environ[cli_shared_process.VARIABLE])
        wait_for(path.exists)
        yield process
        process.stdin.close()
        assert process.wait(timeout=60) == 0 and not path.parent.exists()


def run(*arguments, cwd=None):
    return subprocess.run([AGAVE, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def evaluation(kind, data, output, model=f"pretrained/{CELL}/model.safetensors"):
    options = ["--params", data / "params.yaml", "--preset", "demo", "--seed", "0", "--model", model, "--data", data, "--output", output]
    return ["evaluate", kind, CELL, *map(str, options), "--state-dir", str(output / "state")][: None if kind == "iwae" else -2]


def test_files_messages_and_exit_codes_are_the_same(shared, data, tmp_path, monkeypatch):
    found = {}
    for place in ("there", "alone"):
        if place == "alone":
            monkeypatch.delenv(cli_shared_process.VARIABLE)
        good, bad = run(*evaluation("bound", data, tmp_path / place)), run(*evaluation("bound", data, tmp_path / place, data / "absent"))
        assert good.returncode == 0, good.stderr
        files = [(tmp_path / place / name).read_bytes() for name in ("per_image.npz", "bound.csv")]
        record = (tmp_path / place / "bound.json").read_text().partition('"started"')[0].replace(place, "")
        found[place] = (good.returncode, bad.returncode, bad.stderr, files, record)
    assert found["there"] == found["alone"]
    assert found["there"][:2] == (0, 2) and "absent" in found["there"][2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_command_that_is_stopped_stops_its_copy(shared, data, tmp_path, number):
    command = [AGAVE, *evaluation("iwae", data, tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert " images, " in process.stderr.readline()
        copies = psutil.Process(shared.pid).children(recursive=True)
        assert copies
        process.send_signal(number)
        printed = process.stderr.read()
    assert process.returncode == (1 if number == signal.SIGTERM else -signal.SIGKILL)
    assert number == signal.SIGKILL or "run again to resume" in printed
    wait_for(lambda: not any(copy.is_running() for copy in copies))


def test_without_a_shared_process_a_command_runs_by_itself(monkeypatch, tmp_path):
    assert cli_shared_process.run_there(["evaluate", "bound"]) is None
    monkeypatch.setenv(cli_shared_process.VARIABLE, str(tmp_path / "socket"))
    assert cli_shared_process.run_there(["evaluate", "bound"]) is None and cli_shared_process.run_there(["joint"]) is None
    assert run("evaluate", "--help").returncode == 0
