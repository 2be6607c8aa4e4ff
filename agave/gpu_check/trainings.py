"""Checks of whole trainings: killed and resumed against uninterrupted, and two devices against one."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import Tensor

from agave.gpu_check.setting import Finding, Setting
from agave.models.interface import LikelihoodModel
from agave.objective import Objective
from agave.runtime.checkpoints import RollingState, read_tensors, write_tensors
from agave.runtime.devices import Group, group_of, set_up
from agave.runtime.interruption import Stop
from agave.training.history import Row
from agave.training.loop import Pace, Trainer

STEPS, BATCH, APART = 6, 4, 1e-3
"""Length of the trainings, images a step, and the largest difference of a weight between one device and two."""

Prepared = tuple[LikelihoodModel, Tensor]


def killed_and_resumed(setting: Setting) -> Iterator[Finding]:
    """Compare a training that was killed and resumed with an uninterrupted one, bit by bit, and say what repeatable algorithms cost."""
    folder = _empty(setting.folder / "resumed")
    prepared = setting.model("agave", "tiny")
    seconds = {}
    for strict in (False, True):
        with _repeatable(strict):
            _train(setting, prepared, folder / "warm")  # loads the libraries
            began = time.monotonic()
            whole = _train(setting, prepared, folder / f"whole-{strict}")
            seconds[strict] = time.monotonic() - began
            again = _train(setting, prepared, folder / f"again-{strict}")
        name = "torch.use_deterministic_algorithms" if strict else "the settings of every training"
        cost = f"{seconds[True] / seconds[False]:.2f} times the time" if strict else "cuDNN's repeatable algorithms"
        yield Finding(f"agave: a training repeats its bits with {name}", "tiny", None, None, _same(whole, again), cost)
    process = _start(_train_to_files, (setting, {"killed": prepared}, folder, 0.3))
    _wait_for_step(process, folder / "killed", 3)
    killed = process.is_alive()
    process.kill()
    process.join()
    with _repeatable(True):
        resumed = _train(setting, prepared, folder / "killed")
    note = "" if killed else "the training ended before it could be killed"
    yield Finding("agave: killed and resumed, the same bits as uninterrupted", "tiny", None, None, killed and _same(whole, resumed), note)


def two_devices(setting: Setting) -> Iterator[Finding]:
    """Compare a training on two devices with one on a single device: two GPUs, or two processes on a CPU."""
    if setting.on_gpu and torch.cuda.device_count() < 2:
        return
    folder = _empty(setting.folder / "devices")
    prepared = {system: setting.model(system, "tiny") for system in ("pixelcnn_pp", "agave")}  # with a static graph, and without
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [_start(_train_to_files, (setting, prepared, folder, 0.0, rank, port)) for rank in range(2)]
    _wait_for_all(processes)
    ended = all(process.exitcode == 0 for process in processes)
    for system, own in prepared.items():
        one = _train(setting, own, folder / f"{system}-one")
        two = read_tensors(folder / f"{system}.safetensors") if ended else {}
        apart = max(float((one[name] - two[name]).abs().max()) for name in one) if ended else float("nan")
        note = "NCCL" if setting.on_gpu else "gloo"
        yield Finding(f"{system}: two devices train what one does, largest difference", "tiny", apart, APART, apart <= APART, note)


def _train(
    setting: Setting, prepared: Prepared, folder: Path, watch: Callable[[Row], None] | None = None, group: Group | None = None
) -> dict[str, Tensor]:
    """Train a model of small size and return its weights; goes on from the state in the folder."""
    group = group or Group()
    device = torch.device("cuda", group.rank) if setting.on_gpu else setting.device
    model, x_uint8 = prepared[0], prepared[1].to(device)
    own = type(model).from_options(setting.params("tiny").model, model.image_size).to(device)
    own.load_state_dict(model.state_dict())
    options = setting.params("tiny").joint.model_copy(update={"steps": STEPS, "batch": BATCH, "warmup_steps": 2})
    state = RollingState(folder, lock=group.leads)
    try:
        trainer = Trainer(
            own,
            x_uint8,
            x_uint8,
            Objective(2.0),
            options,
            seed=0,
            state=state,
            stop=Stop(save_every=0.0),
            pace=Pace(),
            group=group,
            label="gpu-check",
            watch=watch,
        )
        with contextlib.redirect_stderr(io.StringIO()):
            return trainer.run().raw
    finally:
        state.close()


def _train_to_files(setting: Setting, prepared: dict[str, Prepared], folder: Path, pause: float, rank: int = 0, port: int = 0) -> None:
    """Train in a process of its own, one of two if a port is given; the pause after each step leaves time to kill it."""
    if port:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "gpu-check"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    set_up(setting.params("tiny").compute, setting.device.type, 1)
    with group_of(setting.device) as group, _repeatable(not port):
        for name, own in prepared.items():
            weights = _train(setting, own, folder / name, (lambda _: time.sleep(pause)) if pause else None, group)
            if group.leads:
                write_tensors(folder / f"{name}.safetensors", weights, {})


@contextmanager
def _repeatable(strict: bool) -> Iterator[None]:
    """Refuse algorithms that do not repeat their bits, if `strict`."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(strict, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _start(function: Callable[..., None], arguments: Sequence[object]) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=function, args=tuple(arguments))
    process.start()
    return process


def _wait_for_step(process: BaseProcess, folder: Path, step: int) -> None:
    while process.is_alive():
        if any(int(path.name.split("-")[1]) >= step for path in folder.glob("state-*.safetensors")):
            return
        time.sleep(0.02)


def _wait_for_all(processes: Sequence[BaseProcess], seconds: float = 300.0) -> None:
    """Wait for processes; when one fails, or time is up, the others are killed."""
    end = time.monotonic() + seconds
    while any(process.is_alive() for process in processes):
        if time.monotonic() > end or any(process.exitcode not in (None, 0) for process in processes):
            for process in processes:
                process.kill()
        time.sleep(0.05)


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
