"""Cost of the importance-sampled bound against conditional PixelCNN passes, both measured in turns in this run.

A pass turns images and features into logits; the bound needs besides them f(z), its noise and KL, and the likelihood in
float64. Passes are timed at several batch sizes on one image's samples, and the fastest counts. Then the independence of
chunks and shards, in float64, and the peak of the process's memory for a small and a large K against the budget (Linux).

    python benchmarks/evaluation.py                                     F=32, R=2 and the VAE of the preset `demo`
    python benchmarks/evaluation.py --preset paper --samples 10 --images 1 --batches 2 5    the published sizes, some minutes
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from agave.config import Params, load
from agave.evaluation.importance import iwae_bounds as iwae_bounds_with_progress
from agave.evaluation.memory import MIB, evaluation_cost
from agave.likelihoods import bits_per_dim
from agave.models.agave import AGAVE
from agave.models.interface import scale_to_unit
from agave.models.layers import folded

SIZE = 32


def iwae_bounds(*arguments: object, **options: object) -> dict[str, np.ndarray]:
    """The bound without lines of progress between those of the tables."""
    with contextlib.redirect_stderr(io.StringIO()):
        return iwae_bounds_with_progress(*arguments, **options)  # type: ignore[arg-type]


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def params_of(preset: str) -> Params:
    """The networks of a preset; `demo` with a PixelCNN of F=32, R=2, K=10 and three resolutions."""
    found = load("params.yaml", preset)
    found = found.model_copy(update={"prepare": found.prepare.model_copy(update={"image_size": SIZE})})
    if preset != "demo":
        return found
    sizes = {"filters": 32, "resnets": 2, "mixtures": 10, "resolutions": 3, "stream_channels": 32}
    model = found.model.model_copy(update={"pixelcnn_pp": found.model.pixelcnn_pp.model_copy(update=sizes)})
    return found.model_copy(update={"model": model})


def model_and_images(preset: str, images: int, initialise: bool = True) -> tuple[AGAVE, torch.Tensor]:
    """A new model, initialised on random images, and these images."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AGAVE(params_of(preset).model, SIZE).eval()
    x_uint8 = torch.randint(0, 256, (max(images, 2), 3, SIZE, SIZE), dtype=torch.uint8)
    if initialise:
        model.initialise(x_uint8, x_uint8)
    model.likelihood_dtype = torch.float64
    return model, x_uint8[:images]


def compare(arguments: argparse.Namespace) -> None:
    """Time of the bound against the passes."""
    model, x_uint8 = model_and_images(arguments.preset, arguments.images)
    network, count = model.pixelcnn_pp, arguments.samples
    features = torch.rand(max(arguments.batches), 3, SIZE, SIZE) * 2 - 1
    x = scale_to_unit(x_uint8)

    def passes(batch: int) -> None:
        with torch.inference_mode(), folded(network):
            for image in x:
                for start in range(0, count, batch):
                    n = min(batch, count - start)
                    network(image.expand(n, -1, -1, -1), features[:n])

    def bound(batch: int) -> None:
        iwae_bounds(model, x_uint8, x_uint8, samples=count, seed=0, batch=batch)

    times: dict[tuple[str, int], list[float]] = {}
    passes(min(arguments.batches))  # warms up
    for _ in range(arguments.repeats):
        for batch in arguments.batches:
            times.setdefault(("passes", batch), []).append(seconds(lambda b=batch: passes(b)))
            times.setdefault(("bound", batch), []).append(seconds(lambda b=batch: bound(b)))
    least = {key: min(values) for key, values in times.items()}
    best = min(value for (kind, _), value in least.items() if kind == "passes")
    print(f"{len(x)} images x K={count} in seconds, best of {arguments.repeats} in turns; 'ratio' to the passes at their best batch")
    print(f"{'batch':>6}{'passes':>10}{'bound':>10}{'ratio':>8}")
    for batch in arguments.batches:
        print(f"{batch:>6}{least['passes', batch]:>10.2f}{least['bound', batch]:>10.2f}{least['bound', batch] / best:>8.2f}", flush=True)


def independence(arguments: argparse.Namespace) -> None:
    """Largest difference between chunks and between shards, float64, with the smaller networks."""
    model, x = model_and_images("demo", 3)
    model = model.double()
    common = {"samples": min(arguments.samples, 12), "seed": 0}
    whole = iwae_bounds(model, x, x, batch=5, **common)["growth"]
    chunks = iwae_bounds(model, x, x, batch=3, **common)["growth"]
    pieces = [iwae_bounds(model, x[i : i + 1], x[i : i + 1], batch=5, first=i, **common)["growth"] for i in range(3)]
    for name, other in (("chunks of 5 and of 3", [*chunks]), ("one shard and three", [row for piece in pieces for row in piece])):
        difference = max(abs(bits_per_dim(a - b, 3 * SIZE**2)).max() for a, b in zip(whole, other, strict=True))
        print(f"{name}: largest difference {difference:.1e} bits/dim in float64")


def resident(field: str) -> int:
    """Bytes that the process has in memory now (VmRSS) or had at its peak (VmHWM). Linux only."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))


def peak(preset: str, samples: int, batch: int, results: object) -> None:
    """In a process of its own: how far the peak of resident memory rises above that of the program before it has a model."""
    torch.set_num_threads(1)
    torch.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))  # loads the libraries
    before = resident("VmRSS")
    model, x = model_and_images(preset, 1, initialise=False)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    iwae_bounds(model, x, x, samples=samples, seed=0, batch=batch)
    results.put(resident("VmHWM") - before)  # type: ignore[attr-defined]


def budgets(arguments: argparse.Namespace) -> None:
    """Peak memory against the budget."""
    cost = evaluation_cost(model_and_images(arguments.preset, 1, initialise=False)[0])
    print(f"{'budget MiB':>12}{'batch':>7}{'K':>6}{'peak without the libraries, MiB':>36}")
    spawn = multiprocessing.get_context("spawn")
    for rows in (4, 16):
        budget = cost.fixed + rows * cost.per_row
        batch = cost.batch(budget, 10**6)
        for samples in (rows, 4 * rows):
            results = spawn.Queue()
            process = spawn.Process(target=peak, args=(arguments.preset, samples, batch, results))
            process.start()
            rise = results.get()
            process.join()
            print(f"{budget / MIB:>12.0f}{batch:>7}{samples:>6}{rise / MIB:>36.0f}", flush=True)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo", help="sizes of the networks; images are 32x32")
    parser.add_argument("--samples", type=int, default=150, help="K")
    parser.add_argument("--images", type=int, default=1, help="n")
    parser.add_argument("--batches", type=int, nargs="+", default=[5, 10, 25, 50, 150], help="image samples per pass")
    parser.add_argument("--repeats", type=int, default=2, help="of each time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"preset {arguments.preset}: {SIZE}x{SIZE}, float32, one thread")
    compare(arguments)
    independence(arguments)
    budgets(arguments)


if __name__ == "__main__":
    main()
