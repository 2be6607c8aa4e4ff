"""What a training step asks of a device, counted without one: operations, convolutions, traffic; graphs and breaks of torch.compile.

    python benchmarks/operations.py                                     every system at the published size, batch 2
    python benchmarks/operations.py --systems pixelcnn_pp --graphs      also trace it with torch.compile
    python benchmarks/operations.py --systems pixelcnn_pp --kernels     also compile a small one for this CPU and count its kernels

Tensors have no storage (device `meta`), so nothing is allocated. An operation that only makes another view of a tensor does not count;
traffic is the bytes of all tensors that the others read or write, each once an operation. Forward and backward pass, without the optimizer.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agave import config
from agave.config import Params
from agave.models import SYSTEMS, make_model
from agave.objective import objective
from agave.random_numbers import StepNumbers


class Operations(TorchDispatchMode):
    """Counts operations and bytes while active.

    Attributes:
        names: how often each operation was called.
        traffic: bytes read and written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.traffic = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        out = function(*args, **(kwargs or {}))
        is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in function._schema.returns)
        if is_view or function is torch.ops.aten.detach.default:
            return out
        self.names[str(function)] += 1
        seen = set()
        for tensor in tree_leaves((args, kwargs, out)):
            if isinstance(tensor, torch.Tensor):
                key = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape))
                if key not in seen:
                    seen.add(key)
                    self.traffic += tensor.numel() * tensor.element_size()
        return out

    @property
    def convolutions(self) -> int:
        """How many of the operations are convolutions, forward or backward."""
        return sum(count for name, count in self.names.items() if "convolution" in name)


def count(system: str, params: Params, batch: int = 2) -> Operations:
    """Count a training step of a system, forward and backward."""
    size = params.prepare.image_size
    with torch.device("meta"):
        model = make_model(system, params, size).train()
        x_uint8 = torch.zeros(batch, 3, size, size, dtype=torch.uint8)
        with Operations() as operations:
            terms = model(x_uint8, x_uint8, model.draw_noise(batch, StepNumbers()))
            objective(terms, 1.0).backward()  # type: ignore[no-untyped-call]
    return operations


def graphs(system: str, params: Params) -> tuple[int, int]:
    """Return graphs and graph breaks of torch.compile for a training step with dropout."""
    size = params.prepare.image_size
    model = make_model(system, params, size).train()
    x_uint8 = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(model)(x_uint8, x_uint8, model.draw_noise(2, StepNumbers(0)))
    return explained.graph_count, explained.graph_break_count


def kernels(system: str, params: Params) -> tuple[int, int]:
    """Return generated kernels of a compiled training step on this CPU, and its convolutions, forward and backward."""
    from torch._inductor import metrics

    size = params.prepare.image_size
    model = make_model(system, params, size).train()
    x_uint8 = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    torch._dynamo.reset()
    metrics.reset()
    whole = torch.compile(model, fullgraph=True)
    objective(whole(x_uint8, x_uint8, model.draw_noise(2, StepNumbers(0))), 1.0).backward()  # type: ignore[no-untyped-call]
    return metrics.generated_kernel_count, count(system, params).convolutions


def with_dropout(params: Params) -> Params:
    """Return the parameters with a dropout of 0.5."""
    sizes = params.model.pixelcnn_pp.model_copy(update={"dropout": 0.5})
    return params.model_copy(update={"model": params.model.model_copy(update={"pixelcnn_pp": sizes})})


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), help="which systems are counted")
    parser.add_argument("--preset", default="paper", help="sizes of the networks that are counted")
    parser.add_argument("--batch", type=int, default=2, help="images of the step")
    parser.add_argument("--most", type=int, default=0, help="operations by name that are listed")
    parser.add_argument("--graphs", action="store_true", help="trace the networks of the preset tiny with torch.compile")
    parser.add_argument("--kernels", action="store_true", help="compile the networks of the preset tiny for this CPU: needs g++, minutes")
    parser.add_argument("--params", type=Path, default=Path(__file__).resolve().parents[1] / "params.yaml", help="file of the parameters")
    args = parser.parse_args()
    params, tiny = config.load(args.params, args.preset), with_dropout(config.load(args.params, "tiny"))
    print(f"{'system':<14}{'operations':>12}{'convolutions':>14}{'GB':>8}{'graphs':>8}{'breaks':>8}{'kernels per convolution':>25}")
    for system in args.systems:
        found = count(system, params, args.batch)
        traced = graphs(system, tiny) if args.graphs else ("", "")
        line = (
            f"{system:<14}{sum(found.names.values()):>12,}{found.convolutions:>14,}{found.traffic / 1e9:>8.2f}{traced[0]:>8}{traced[1]:>8}"
        )
        if args.kernels:
            generated, convolutions = kernels(system, tiny)
            line += f"{f'{generated}/{convolutions} = {generated / convolutions:.2f}':>25}"
        print(line, flush=True)
        for name, times in found.names.most_common(args.most):
            print(f"  {times:>6}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
