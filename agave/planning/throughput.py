"""Measure the throughput of this machine by a few real training steps and forward passes of the preset's own networks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from agave.auxiliary_image import auxiliary_image
from agave.config import Params
from agave.errors import UserError
from agave.grid import Cell
from agave.models import make_model
from agave.objective import objective
from agave.planning import network_costs
from agave.planning.plan import Throughput
from agave.runtime.devices import set_up
from agave.training.weights import FlatWeights

SECONDS = 60.0
"""Seconds after which no further network is measured."""


def calibrate(params: Params, threads: int = 1) -> Throughput:
    """Measure what one device sustains: a GPU if the preset may use one and there is one, else `threads` CPU cores.

    Each network runs at the largest batch, up to the preset's, that leaves time for three steps in its share of `SECONDS`. A
    network that is not reached in time is taken to be as fast as the joint model, which is measured first.

    Raises:
        UserError: the joint model does not fit into memory.
    """
    began = time.monotonic()
    device = set_up(params.compute, "cpu" if params.compute.device == "cpu" else "auto", threads)
    size = params.prepare.image_size
    # the joint model counts twice: most of the work of a preset is its
    shares: dict[str, float] = {"agave": 0.5, "pixelcnn_pp": 0.25, "vae": 0.25}
    training: dict[str, float] = {}
    evaluation: dict[str, float] = {}
    batches = {}
    for kind, share in shares.items():
        if training and time.monotonic() - began > SECONDS * (1 - share):
            training[kind], evaluation[kind] = training["agave"], evaluation["agave"]
            continue
        try:
            result = _measure(params, Cell(kind, resolution=size), device, SECONDS * share)
        except (RuntimeError, MemoryError) as error:  # torch says that memory is short by a RuntimeError
            if kind == "agave":
                message = str(error).splitlines()[0] if str(error) else "out of memory"
                raise UserError(f"the joint model cannot be measured on this machine ({message}); accepted: --tflops T") from error
            training[kind], evaluation[kind] = training["agave"], evaluation["agave"]
            continue
        training[kind], evaluation[kind], batches[kind] = result
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{threads} core{'s' if threads > 1 else ''} of this machine"
    measured = ", ".join(f"{kind} at batch {batch}" for kind, batch in batches.items())
    left = "".join(f"; {kind} not reached in time, taken as fast as agave" for kind in shares if kind not in batches)
    return Throughput(training, evaluation, _startup(), name, f"measured: training steps and forward passes of {measured}{left}")


def _measure(params: Params, cell: Cell, device: torch.device, seconds: float) -> tuple[float, float, int]:
    """Return FLOP/s of training steps and of forward passes in float32, and the batch at which they were measured."""
    began, size = time.monotonic(), params.prepare.image_size
    options = {"agave": params.joint, "vae": params.pretrain.vae, "pixelcnn_pp": params.pretrain.pixelcnn_pp}[cell.kind]
    model = make_model(cell.system, params, size, resolution=cell.resolution, levels=cell.levels).to(device)
    weights = FlatWeights(model)
    half = params.compute.precision == "bfloat16"

    def images(batch: int) -> tuple[Any, Any]:
        x_uint8 = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
        return x_uint8, auxiliary_image(x_uint8, cell.resolution)

    def train(x_uint8: Any, y_uint8: Any) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = objective(model(x_uint8, y_uint8), cell.kl_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        weights.collect_gradient()
        weights.update(learning_rate=1e-6, ema_decay=0.9)

    @torch.inference_mode()
    def evaluate(x_uint8: Any, y_uint8: Any) -> None:
        model(x_uint8, y_uint8)

    one = _time(lambda: train(*images(1)), device, 0.0)
    left = seconds - (time.monotonic() - began)
    batch = max(1, min(options.batch, int(left / (4 * one))))  # three steps and what an evaluation takes
    x_uint8, y_uint8 = images(batch)
    step = _time(lambda: train(x_uint8, y_uint8), device, left / 4)
    model.eval()
    model.likelihood_dtype = torch.float64
    x_uint8, y_uint8 = images(min(batch, params.evaluate.batch))
    forward = _time(lambda: evaluate(x_uint8, y_uint8), device, left / 8) / len(x_uint8)
    operations = 2 * sum(network_costs.multiply_adds(params, cell).values())  # FLOP of a forward pass of one image
    return 3 * operations * batch / step, operations / forward, batch


def _time(run: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Return the seconds of one run: the median of at least three after a warm-up, or the warm-up itself if it takes all the time."""
    times: list[float] = []
    end = time.monotonic() + min(seconds, 3.0)
    while True:
        began = time.monotonic()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic() - began)
        if times[0] > seconds or (len(times) > 3 and time.monotonic() > end):
            return sorted(times[1:] or times)[len(times[1:]) // 2]


def _startup() -> float:
    """Return the seconds that the processes of a job, Snakemake and the step, take to start."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import snakemake.cli, agave.training.job"], check=True)
    return time.monotonic() - began
