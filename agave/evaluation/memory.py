"""Find the memory of a forward pass by running it, and the batch that fits into a budget."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agave.errors import UserError
from agave.models.interface import LikelihoodModel

MIB = 2**20
# Memory of the libraries besides the tensors, chosen so that peaks measured on a CPU lie below the budget (benchmarks/evaluation.py).
WORKSPACE, LIBRARIES = 1.5, 96 * MIB


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors made while it is active.

    Attributes:
        peak: the largest number of bytes that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._alive = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: otherwise torch imports its compiler, which takes over a second, in order not to compile this mode."""
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._alive += size
            self.peak = max(self.peak, self._alive)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size


@dataclass(frozen=True)
class MemoryCost:
    """Bytes that an evaluation takes.

    Attributes:
        fixed: weights, the weights folded out of their normalisation, and what the libraries keep.
        per_row: bytes for every image or image sample of a forward pass.
    """

    fixed: int
    per_row: int

    def batch(self, budget: int, limit: int) -> int:
        """Return the largest batch up to `limit` that fits into `budget` bytes.

        Raises:
            UserError: not even one row fits.
        """
        rows = (budget - self.fixed) // self.per_row
        if rows < 1:
            least = -(-(self.fixed + self.per_row) // MIB)
            raise UserError(f"memory {budget // MIB} MiB: one image at a time needs about {least} MiB; accepted: --memory {least} or more")
        return min(rows, limit)


@torch.inference_mode()
def evaluation_cost(model: LikelihoodModel) -> MemoryCost:
    """Return the memory of evaluating a model, found by a pass of one image and of two, on the device and with the dtypes of the model."""
    size, device = model.image_size, next(model.parameters()).device

    def peak(batch: int) -> int:
        x = torch.zeros(batch, 3, size, size, dtype=torch.uint8, device=device)
        y = torch.zeros(batch, 3, model.resolution, model.resolution, dtype=torch.uint8, device=device)
        return peak_bytes(lambda: model(x, y))

    one, two = peak(1), peak(2)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    return MemoryCost(fixed=2 * weights + LIBRARIES, per_row=int(WORKSPACE * max(two - one, 1)))


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the largest number of bytes of tensors that `run` holds at once, besides those that existed before."""
    counter = PeakMemory()
    with counter:
        run()
    return counter.peak


def default_budget(device: torch.device) -> int:
    """Return the default memory of an evaluation, bytes: 80 % of what is free on a GPU, half of a core's share of the memory on a CPU."""
    if device.type == "cuda":
        return int(0.8 * torch.cuda.mem_get_info(device)[0])
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(0.5 * total / (os.cpu_count() or 1))
