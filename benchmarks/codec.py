"""Speed of the lossless codec against the same model's likelihood and sampler, all measured in turns in this run.

Encoding takes a pass of the networks, as a likelihood does, and for latent variables the solution of the flow; decoding is as sequential
as sampling. The codec computes in float64, the others in float32.

A model with latent variables needs bits to draw them with, so the groups of a file grow from one image to the largest size: the more
images in a file, the faster an image. With 256 photograph crops most are coded in large groups.

    python benchmarks/codec.py                                                        the three models in pretrained/
    python benchmarks/codec.py --models pretrained/pixelcnn_pp/model.safetensors --group 1 16 64
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import agave
from agave.codec.compression import Codec
from agave.config import load
from agave.data.sources import SOURCES


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def photographs(count: int, size: int) -> np.ndarray:
    """Crops of the embedded photographs, (count, size, size, 3)."""
    prepare = load("params.yaml", "demo").prepare
    photos = prepare.photos.model_copy(update={"train_crops": 1, "test_crops": max(2, count)})
    found = SOURCES["photos"](prepare.model_copy(update={"photos": photos, "image_size": size}))
    return np.ascontiguousarray(found.test[:count])


def main() -> None:
    """Print one line a model and size of group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", type=Path, nargs="+", default=sorted(Path("pretrained").glob("*/model.safetensors")), help="trained models"
    )
    parser.add_argument("--images", type=int, default=256, help="images in a file")
    parser.add_argument("--group", type=int, nargs="+", default=[64], help="largest number of images coded together")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.images} crops of photographs, {options.threads} thread(s), median of {options.repeats} in turns, seconds an image")
    print(f"{'model':<40}{'group':>6}{'encode':>9}{'/ likelihood':>14}{'decode':>9}{'/ sampling':>12}")
    for path in options.models:
        model, codec = agave.load(path), Codec.of_file(path)
        images = photographs(options.images, model.image_size)
        x_uint8 = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        for group in (min(one, len(images)) for one in options.group):
            data = codec.compress(images, group=group).data  # warms up, too
            runs: dict[str, Callable[[], object]] = {
                "encode": lambda codec=codec, images=images, group=group: codec.compress(images, group=group),
                "likelihood": lambda model=model, x=x_uint8: model.log_prob(x),
                "decode": lambda codec=codec, data=data: codec.decompress(data),
                "sampling": lambda model=model, count=group: model.sample(count, seed=0),
            }
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(options.repeats):
                for name, run in runs.items():
                    times[name].append(seconds(run))
            one = {name: statistics.median(found) / len(images) for name, found in times.items()}
            one["sampling"] *= len(images) / group
            encode, decode = one["encode"], one["decode"]
            ratios = f"{encode / one['likelihood']:>13.1f}x", f"{decode / one['sampling']:>11.1f}x"
            print(f"{path.parent.name:<40}{group:>6}{encode:>9.4f}{ratios[0]}{decode:>9.4f}{ratios[1]}", flush=True)


if __name__ == "__main__":
    main()
