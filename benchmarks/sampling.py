"""Speed of the cached sampler against full forward passes, both measured in turns in this run.

The slow way of sampling runs the whole network once for each of the H W pixels. Its time is taken as H W times that of one
pass, since running all of them would take hours; the passes are repeated and the median counts.

    python benchmarks/sampling.py                                      F=32, R=2, K=10
    python benchmarks/sampling.py --filters 160 --resnets 5 --batch 1  the published size, about two minutes
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from agave.models.pixelcnn_pp import PixelCNNpp
from agave.planning.summary import memory
from agave.sampling import sample
from agave.sampling.cached_pixelcnn_pp import CachedPixelCNNpp


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Print one line a batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters", type=int, default=32, help="feature maps F")
    parser.add_argument("--resnets", type=int, default=2, help="gated blocks per resolution R")
    parser.add_argument("--mixtures", type=int, default=10, help="components K")
    parser.add_argument("--size", type=int, default=32, help="height and width, pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64], help="images at once")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size, pixels = options.size, options.size**2
    model = PixelCNNpp(options.filters, options.resnets, options.mixtures, feature_channels=3).eval()
    model.initialise(torch.rand(4, 3, size, size) * 2 - 1, torch.rand(4, 3, size, size) * 2 - 1)
    print(f"conditional PixelCNN++, F={options.filters} R={options.resnets} K={options.mixtures}, {size}x{size}, float32, ", end="")
    print(f"{options.threads} thread(s), median of {options.repeats} in turns")
    print(f"'slow': {pixels} passes, from the time of one; 'teacher forced': largest difference of logits, relative to the largest logit")
    print(f"{'batch':>5}{'one pass':>12}{'cached':>10}{'slow / cached':>15}{'cached / pass':>15}{'teacher forced':>16}{'MiB an image':>14}")
    for batch in options.batch:
        x_uint8 = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        x, features = x_uint8 / 127.5 - 1, torch.rand(batch, 3, size, size) * 2 - 1
        passes, runs = [], []
        with torch.inference_mode():
            expected = model(x, features)  # warms up, too
            _, logits = sample(model, features, batch=batch, shape=(size, size), seed=0, teacher=x_uint8, return_logits=True)
            difference = ((logits - expected).abs().max() / expected.abs().max()).item()
            del expected, logits
            for _ in range(options.repeats):
                passes.append(seconds(lambda x=x, f=features: model(x, f)))
                runs.append(seconds(lambda n=batch, f=features: sample(model, f, batch=n, shape=(size, size), seed=0)))
            kept = memory(CachedPixelCNNpp(model, 2, size, size, features[:1].expand(2, -1, -1, -1)))
            kept -= memory(CachedPixelCNNpp(model, 1, size, size, features[:1]))
        one, cached = statistics.median(passes), statistics.median(runs)
        print(f"{batch:>5}{one:>10.3f} s{cached:>8.2f} s{pixels * one / cached:>14.1f}x{cached / one:>14.2f}x", end="")
        print(f"{difference:>16.1e}{kept / 2**20:>14.1f}", flush=True)


if __name__ == "__main__":
    main()
