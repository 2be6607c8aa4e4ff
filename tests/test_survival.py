"""Trainings that are killed, stopped, starved of disk or given a damaged state: nothing is lost but steps since the last save."""

import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agave import config
from agave.errors import UserError
from agave.files import sha256
from agave.runtime.checkpoints import read_tensors
from agave.runtime.devices import Place
from agave.runtime.interruption import InterruptedWorkError, Stop
from agave.steps.prepare import prepare
from agave.steps.pretrain import run as pretrain

STEPS = 60
KILLS = 10
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["agave.training.job"])


@pytest.fixture(scope="module")
def params(root):
    tiny = config.load(root / "params.yaml", "tiny")
    training = tiny.pretrain.pixelcnn_pp.model_copy(update={"steps": STEPS})
    return tiny.model_copy(update={"pretrain": tiny.pretrain.model_copy(update={"pixelcnn_pp": training})})


@pytest.fixture(scope="module")
def data(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(params, folder)
    return folder


def _train(params, data, folder, rank, size, port, file_limit, part):
    """One process of a training; exit code 1 with the message on stderr if it stops."""
    if size > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1",
        }
        os.environ["MASTER_PORT"] = str(port)
    with (folder / f"log{rank}").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    place = Place(folder / "work", threads=1, stop=Stop(save_every=0.0))
    try:
        pretrain(params, part, 16, 0, data, folder / "out", place)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # as torchrun does: no rank waits for the others


class Run:
    """The processes of one training."""

    def __init__(self, params, data, folder, size=1, file_limit=None, part="pixelcnn_pp"):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = [(params, data, folder, rank, size, port, file_limit, part) for rank in range(size)]
        self.processes = [context.Process(target=_train, args=one) for one in arguments]
        for process in self.processes:
            process.start()

    def signal(self, number):
        for process in self.processes:
            os.kill(process.pid, number)

    def end(self):
        """Exit codes; when one process fails the others are given some seconds and then killed, as torchrun does."""
        deadline = None
        while any(process.is_alive() for process in self.processes):
            if deadline is None and any(process.exitcode not in (None, 0) for process in self.processes):
                deadline = time.monotonic() + 20
            if deadline is not None and time.monotonic() > deadline:
                for process in self.processes:
                    process.kill()
            time.sleep(0.01)
        return [process.exitcode for process in self.processes]

    def states(self):
        return sorted(self.folder.glob("work/*/state-*.safetensors"))

    def wait_for_a_state_after(self, step):
        while any(process.is_alive() for process in self.processes):
            if any(int(path.name.split("-")[1]) > step for path in self.states()):
                return
            time.sleep(0.01)

    def message(self):
        return (self.folder / "log0").read_text()


@pytest.fixture(scope="module")
def whole(params, data, tmp_path_factory):
    """The weights of uninterrupted runs, by number of processes."""
    found = {}
    for size in (1, 2):
        run = Run(params, data, tmp_path_factory.mktemp(f"whole{size}") / "run", size)
        assert run.end() == [0] * size, run.message()
        found[size] = run.folder / "out"
    return found


@pytest.mark.parametrize("part", ["pixelcnn_pp", "vae"])
@pytest.mark.parametrize(
    ("size", "compute", "tolerance"),
    [
        (2, {}, 1e-4),
        (4, {}, 1e-4),
        (2, {"images_per_pass": 1}, 1e-4),
        (2, {"allreduce": "bfloat16"}, 3e-2),
    ],
    ids=["two", "four", "pieces", "bfloat16"],
)
def test_several_processes_train_what_one_does(params, data, tmp_path, size, compute, tolerance, part):
    """The VAE has parameters without a gradient, so that its graph is not declared static."""
    training = getattr(params.pretrain, part).model_copy(update={"steps": 12})
    params = params.model_copy(update={"pretrain": params.pretrain.model_copy(update={part: training})})
    changed = params.model_copy(update={"compute": params.compute.model_copy(update=compute)})
    runs = [Run(params, data, tmp_path / "one", part=part), Run(changed, data, tmp_path / "several", size, part=part)]
    for run in runs:
        assert set(run.end()) == {0}, run.message()
    one, several = (read_tensors(run.folder / "out/model.safetensors") for run in runs)
    assert one.keys() == several.keys()
    largest = max(float((one[name] - several[name]).abs().max()) for name in one)
    assert largest < tolerance and (largest > 1e-6 or "allreduce" not in compute)


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.integration)])
@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.integration), signal.SIGTERM], ids=["KILL", "TERM"])
def test_ten_stops_at_random_moments_change_no_bit_of_the_weights(params, data, whole, tmp_path, number, size):
    moments, reached, stopped = random.Random(size), 0, 0
    while stopped < KILLS:
        run = Run(params, data, tmp_path / "run", size)
        run.wait_for_a_state_after(reached)  # a step at least was made and saved: the run as a whole goes on
        time.sleep(moments.uniform(0.0, 0.2))
        if not all(process.is_alive() for process in run.processes):
            pytest.fail(f"ended after {stopped} of {KILLS} stops: {run.message()}")
        run.signal(number)
        codes = run.end()
        if number == signal.SIGTERM:
            assert set(codes) <= {1, -signal.SIGKILL} and "interrupted at step" in run.message(), run.message()
        steps = [int(path.name.split("-")[1]) for path in run.states()]
        # one more than the two that are kept if it died between writing the newest and removing the oldest
        assert steps and len(steps) <= (3 if number == signal.SIGKILL else 2) and steps[-1] > reached
        reached, stopped = steps[-1], stopped + 1
    last = Run(params, data, tmp_path / "run", size)
    assert last.end() == [0] * size, last.message()
    assert 0 < reached < STEPS
    for name in ("model.safetensors", "raw.safetensors"):
        assert sha256(last.folder / "out" / name) == sha256(whole[size] / name)


def test_full_disk_is_named_and_the_old_state_serves(params, data, whole, tmp_path):
    first = Run(params, data, tmp_path / "run")
    first.wait_for_a_state_after(1)
    first.signal(signal.SIGTERM)
    assert first.end() == [1]
    before = first.states()
    full = Run(params, data, tmp_path / "run", file_limit=before[-1].stat().st_size // 2)
    assert full.end() == [1]
    assert "not written, the disk is full" in full.message() and "is untouched" in full.message()
    assert full.states() == before
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "a temporary file was left"
    again = Run(params, data, tmp_path / "run")
    assert again.end() == [0], again.message()
    assert sha256(again.folder / "out/model.safetensors") == sha256(whole[1] / "model.safetensors")


def test_a_place_that_cannot_be_written_to_is_named(params, data, tmp_path):
    (tmp_path / "work").write_text("a file where a folder is needed")
    with pytest.raises(UserError, match=r"work/\w+: no training state can be kept there"):
        pretrain(params, "pixelcnn_pp", 16, 0, data, tmp_path / "out", Place(tmp_path / "work", threads=1))
    if os.geteuid() != 0:  # root writes everywhere
        folder = tmp_path / "read-only"
        folder.mkdir(mode=0o500)
        with pytest.raises(UserError, match="Permission denied"):
            pretrain(params, "pixelcnn_pp", 16, 0, data, tmp_path / "out", Place(folder, threads=1))


def test_the_state_of_another_configuration_is_not_taken(params, data, tmp_path):
    def start(changed, limit):
        place = Place(tmp_path / "work", threads=1, stop=Stop(time_limit=limit))
        pretrain(changed, "pixelcnn_pp", 16, 0, data, tmp_path / "out", place)

    with pytest.raises(InterruptedWorkError):
        start(params, 0.0)
    faster = params.pretrain.pixelcnn_pp.model_copy(update={"learning_rate": 0.02})
    other = params.model_copy(update={"pretrain": params.pretrain.model_copy(update={"pixelcnn_pp": faster})})
    with pytest.raises(InterruptedWorkError, match="at step 1 of"):
        start(other, 0.0)
    assert len({path.parent for path in Path(tmp_path / "work").glob("*/state-*")}) == 2
    with pytest.raises(InterruptedWorkError, match="at step 2 of"):
        start(params, 0.0)


def test_speed_and_memory_settings_go_on_from_the_same_state(params, data, tmp_path):
    def start(**compute):
        changed = params.model_copy(update={"compute": params.compute.model_copy(update=compute)})
        place = Place(tmp_path / "work", threads=1, stop=Stop(time_limit=0.0))
        pretrain(changed, "pixelcnn_pp", 16, 0, data, tmp_path / "out", place)

    for step, compute in enumerate(({}, {"images_per_pass": 1}, {"checkpointing": True}), start=1):
        with pytest.raises(InterruptedWorkError, match=f"at step {step} of"):
            start(**compute)


def test_the_command_starts_two_processes_and_hands_them_the_signal(root, data, tmp_path):
    document = (root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(document.replace("pixelcnn_pp: {steps: 20, batch: 4", "pixelcnn_pp: {steps: 2000, batch: 4"))
    options = ["--params", tmp_path / "params.yaml", "--preset", "tiny", "--data", data, "--output", tmp_path / "out"]
    options += ["--state-dir", tmp_path / "work", "--save-every", "0", "--threads", "1", "--devices", "2"]
    command = [sys.executable, "-m", "agave.cli", "pretrain", "pixelcnn_pp", *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        while process.poll() is None and not list(tmp_path.glob("work/*/state-*")):
            time.sleep(0.05)
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert process.returncode not in (0, None) and "run again to resume" in said, said
    steps = [int(path.name.split("-")[1]) for path in tmp_path.glob("work/*/state-*")]
    assert f"interrupted at step {max(steps)} of 2000" in said
    assert not (tmp_path / "out").exists()
