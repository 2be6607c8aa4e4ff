"""The part `speed`: training steps against their convolutions, the kernels that take longest, sampling, importance samples."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from agave.evaluation.importance import iwae_bounds
from agave.evaluation.memory import peak_bytes
from agave.gpu_check.setting import MEASUREMENTS, Setting, registered
from agave.models import REGISTRY, SYSTEMS
from agave.objective import Objective
from agave.runtime.checkpoints import RollingState
from agave.runtime.progress import Progress
from agave.training.loop import Pace, Trainer

Table = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much is measured at a size of the networks.

    Attributes:
        batches: images of a training step, from the first on until memory or time ends.
        repeats: steps that are timed.
        sampled: images drawn at once.
        samples: importance samples of an image.
        backend: backend of torch.compile.
    """

    batches: tuple[int, ...]
    repeats: int
    sampled: tuple[int, ...]
    samples: int
    backend: str


SCALES = {
    "published": Scale((8, 16, 32, 64, 128, 256, 512), 5, (16, 64, 256), 50, "inductor"),
    "tiny": Scale((2, 4), 2, (2,), 4, "aot_eager"),
}
PRECISIONS = ("bfloat16", "tf32", "float32")
UNROLLED = ("pixelrnn",)
"""Systems whose forward pass is a loop of hundreds of steps: torch.compile unrolls it, and takes longer than the whole check."""


class Convolutions(TorchDispatchMode):
    """Remembers every convolution, forward and backward, with fresh tensors of the same shape, layout and type."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Callable[..., Any], list[Any], dict[str, Any]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and remember it if it is a convolution."""
        if str(function).startswith(("aten.convolution.", "aten.convolution_backward.")):
            own = [torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device=a.device) if isinstance(a, Tensor) else a for a in args]
            self.calls.append((function, own, kwargs or {}))
        return function(*args, **(kwargs or {}))

    @torch.no_grad()
    def again(self) -> None:
        """Compute all of them again."""
        for function, args, kwargs in self.calls:
            function(*args, **kwargs)


def run(setting: Setting) -> Table:
    """Return the rows of all measurements by name."""
    return {name: list(rows(setting)) for name, rows in registered(MEASUREMENTS)}


def training_steps(setting: Setting) -> Iterator[Table]:
    """Measure training steps of every system: what counts most first, the rest as far as time allows."""
    scale = SCALES[setting.size]
    precisions = PRECISIONS if setting.on_gpu else ("bfloat16", "float32")
    for mode in ("eager", "compiled"):
        for precision in precisions:
            for system in SYSTEMS:
                if mode == "compiled" and system in UNROLLED:
                    continue
                best = None
                batches = scale.batches if mode == "eager" else scale.batches[-1:] if setting.size == "tiny" else (64,)
                for batch in batches:
                    if setting.left() < 0:
                        break
                    row = _training_step(setting, scale, system, batch, precision, mode)
                    yield row
                    if "seconds" not in row or (best is not None and row["images_per_second"] < 1.05 * best):
                        break  # memory ended, or a larger batch is no faster
                    best = row["images_per_second"]
                if setting.size == "tiny" and mode == "compiled":
                    return  # one system shows that it runs


def longest_kernels(setting: Setting) -> Iterator[Table]:
    """Yield the ten kernels of a training step that take longest, for every system."""
    for system in SYSTEMS:
        with _trainer(setting, system, SCALES[setting.size].batches[0], Pace(autocast=torch.bfloat16)) as (trainer, step):
            step()
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.on_gpu else [])]
            with profile(activities=activities) as profiler:
                step()
            del trainer
        own = "self_device_time_total" if setting.on_gpu else "self_cpu_time_total"
        events = sorted(profiler.key_averages(), key=lambda event: -float(getattr(event, own)))
        whole = sum(float(getattr(event, own)) for event in events)
        for event in events[:10]:
            taken = float(getattr(event, own))
            yield {"system": system, "kernel": event.key[:100], "calls": event.count, "milliseconds": taken / 1e3, "share": taken / whole}


def sampling(setting: Setting) -> Iterator[Table]:
    """Measure drawing images, every system."""
    for system in SYSTEMS:
        model = setting.model(system)[0].to(setting.device).eval()
        took = 0.0
        for batch in SCALES[setting.size].sampled:
            if 4 * took > setting.left():
                break
            took = _seconds(partial(model.sample, batch, seed=0), setting)
            yield {"system": system, "batch": batch, "seconds": took, "images_per_second": batch / took}


def importance_samples(setting: Setting) -> Iterator[Table]:
    """Measure importance samples of every system whose bound has random numbers."""
    scale = SCALES[setting.size]
    for system in (name for name, known in REGISTRY.items() if known.has_samples):
        model, x_uint8 = setting.model(system)
        model, x = model.to(setting.device).eval(), x_uint8[:4].to(setting.device)
        model.likelihood_dtype = torch.float64

        def bound(model: Any = model, x: Tensor = x) -> None:
            with contextlib.redirect_stderr(io.StringIO()):
                iwae_bounds(model, x, x, samples=scale.samples, seed=0, batch=scale.samples)

        bound()
        took = _seconds(bound, setting)
        yield {"system": system, "batch": scale.samples, "seconds": took, "samples_per_second": len(x) * scale.samples / took}


def _training_step(setting: Setting, scale: Scale, system: str, batch: int, precision: str, mode: str) -> Table:
    """Return one row: seconds, images/s, share of the convolutions alone, peak memory; or why there are none."""
    row: Table = {"system": system, "precision": precision, "mode": mode, "batch": batch}
    pace = Pace(autocast=torch.bfloat16 if precision == "bfloat16" else None, compile=False)
    try:
        with _tf32(precision == "tf32"), _trainer(setting, system, batch, pace) as (trainer, step):
            if mode == "compiled":
                began = time.monotonic()
                trainer.model.compile(backend=scale.backend)
                step()
                row["compile_seconds"] = time.monotonic() - began
            else:
                step()
            if setting.on_gpu:
                torch.cuda.reset_peak_memory_stats(setting.device)
            seconds = statistics.median(_seconds(step, setting) for _ in range(scale.repeats))
            row |= {"seconds": seconds, "images_per_second": batch / seconds}
            if setting.on_gpu:
                row["peak_memory"] = torch.cuda.max_memory_allocated(setting.device)
            elif mode == "eager":
                row["peak_memory"] = peak_bytes(step)
            if mode == "eager":
                with Convolutions() as alone:
                    step()
                convolutions = statistics.median(_seconds(alone.again, setting) for _ in range(scale.repeats))
                row |= {"convolutions_seconds": convolutions, "convolutions_share": convolutions / seconds}
    except torch.OutOfMemoryError:
        row["ended"] = "out of memory"
    if setting.on_gpu:
        torch.cuda.empty_cache()
    return row


@contextmanager
def _trainer(setting: Setting, system: str, batch: int, pace: Pace) -> Iterator[tuple[Trainer, Callable[[], object]]]:
    """Yield a training of a batch, and a function that makes a step of it."""
    model, x_uint8 = setting.model(system)
    x = x_uint8.to(setting.device)
    x = x.repeat(-(-batch // len(x)), 1, 1, 1)[:batch]
    options = setting.params().joint.model_copy(update={"steps": 10**6, "batch": batch, "learning_rate": 1e-6, "warmup_steps": 0})
    state = RollingState(setting.folder / "speed")
    progress = Progress(1, "gpu-check", "step", quiet=True)
    trainer = Trainer(model.to(setting.device), x, x, Objective(2.0), options, seed=0, state=state, pace=pace)
    trainer.prepare()
    try:
        yield trainer, lambda: trainer.train_step(progress)
    finally:
        state.close()


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    """Let float32 convolutions and products round their inputs to TF32 while active."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _seconds(work: Callable[[], object], setting: Setting) -> float:
    if setting.on_gpu:
        torch.cuda.synchronize(setting.device)
    began = time.perf_counter()
    work()
    if setting.on_gpu:
        torch.cuda.synchronize(setting.device)
    return time.perf_counter() - began
