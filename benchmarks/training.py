"""A step of the training loop against its convolutions alone, forward and backward: same shapes, same run, one after the other.

    python benchmarks/training.py --threads 1
    python benchmarks/training.py --filters 160 --resnets 5 --batch 4 --steps 4

Everything that a step does counts: weights from their norms, activations, likelihood, gradient norm, Adamax, averaging, history.
The convolutions alone are timed twice: as the step calls them, with channels last in memory and padded by the activation before,
and as nn.Conv2d is called by default, with channels first (contiguous tensors).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from agave import config
from agave.models import make_model
from agave.objective import Objective, objective
from agave.runtime.checkpoints import RollingState
from agave.runtime.devices import set_up
from agave.training.loop import Pace, Trainer


class _Convolutions(TorchDispatchMode):
    """Remembers every convolution, forward and backward, with fresh tensors of the same shape and type."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], list[Any], list[Any], dict[str, Any]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function).startswith(("aten.convolution.", "aten.convolution_backward.")):
            own = [torch.empty_strided(a.shape, a.stride(), dtype=a.dtype).normal_() if isinstance(a, Tensor) else a for a in args]
            standard = [a.contiguous() if isinstance(a, Tensor) else a for a in own]
            self.calls.append((function, own, standard, kwargs or {}))
        return function(*args, **(kwargs or {}))

    @torch.no_grad()
    def seconds(self, standard_layout: bool) -> float:
        """Time for all of them again."""
        began = time.perf_counter()
        for function, own, standard, kwargs in self.calls:
            function(*(standard if standard_layout else own), **kwargs)
        return time.perf_counter() - began


def measure(args: argparse.Namespace, joint: bool) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each step of the loop, and of its convolutions alone in its own layout and in the standard one."""
    params = config.load(args.params, "paper")
    sizes = {"filters": args.filters, "resnets": args.resnets, "mixtures": args.mixtures, "stream_channels": args.filters}
    vae = params.model.vae.model_copy(update={"blocks": 2, "hidden": args.filters, "latent": args.filters // 4})
    options = params.model.model_copy(update={"pixelcnn_pp": params.model.pixelcnn_pp.model_copy(update=sizes), "vae": vae})
    torch.manual_seed(0)
    changed = params.model_copy(update={"model": options})
    model = make_model("agave" if joint else "pixelcnn_pp", changed, args.size).train()
    x = torch.randint(0, 256, (4 * args.batch, 3, args.size, args.size), dtype=torch.uint8)
    model.initialise(x[: args.batch], x[: args.batch])
    autocast = torch.bfloat16 if args.precision == "bfloat16" else None
    alone = _Convolutions()
    with alone:
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            terms = model(x[: args.batch], x[: args.batch])
        objective(terms, 1.0).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    steps: list[float] = []
    own: list[float] = []
    standard: list[float] = []
    ended = time.perf_counter()

    def after_each_step(_: object) -> None:
        nonlocal ended
        steps.append(time.perf_counter() - ended)
        own.append(alone.seconds(False))
        standard.append(alone.seconds(True))
        ended = time.perf_counter()

    training = params.joint.model_copy(update={"steps": args.steps + 2, "batch": args.batch, "warmup_steps": 0})
    with tempfile.TemporaryDirectory() as folder:
        state = RollingState(Path(folder))
        pace = Pace(autocast=autocast, checkpointing=args.checkpointing, compile=args.compile)
        Trainer(model, x, x, Objective(1.0), training, seed=0, state=state, pace=pace, watch=after_each_step).run()
        state.close()
    return steps[2:], own[2:], standard[2:]  # the first ones still fetch memory


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters", type=int, default=32, help="F")
    parser.add_argument("--resnets", type=int, default=2, help="R")
    parser.add_argument("--mixtures", type=int, default=10, help="K")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=32, help="of the images, pixels")
    parser.add_argument("--steps", type=int, default=12, help="measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "bfloat16", "both"], default="both")
    parser.add_argument("--joint", action="store_true", help="with a VAE and the feature stream")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--params", type=Path, default=Path(__file__).resolve().parents[1] / "params.yaml")
    args = parser.parse_args()
    set_up(config.load(args.params, "demo").compute, "cpu", args.threads)
    precisions = ["float32", "bfloat16"] if args.precision == "both" else [args.precision]
    print(
        f"{'joint model' if args.joint else 'PixelCNN++'}, F={args.filters} R={args.resnets} K={args.mixtures}, batch {args.batch}, "
        f"{args.size}x{args.size}, {args.threads} thread(s), median of {args.steps}\n\n"
        f"{'':<12}{'step':>8}{'convolutions alone, ms':>30}{'step / convolutions':>30}\n"
        f"{'precision':<12}{'ms':>8}{'channels last':>18}{'first':>12}{'last':>18}{'first':>12}"
    )
    for args.precision in precisions:
        step, own, standard = (1e3 * statistics.median(times) for times in measure(args, args.joint))
        print(f"{args.precision:<12}{step:>8.0f}{own:>18.0f}{standard:>12.0f}{step / own:>18.2f}{step / standard:>12.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
