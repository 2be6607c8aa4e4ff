"""Choose devices, connect the processes of a training (one per device), and keep memory between steps."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from agave.config import Compute
from agave.errors import UserError
from agave.runtime.interruption import Stop


@dataclass(frozen=True)
class Place:
    """The device, threads and limits of some work; nothing here changes a result beyond rounding.

    Attributes:
        state: folder of all rolling states.
        device: device in place of the preset's `compute.device`, or None.
        threads: number of CPU threads, or None for torch's default.
        stop: how often to save and when to stop early.
        source: digest of the code, part of the identity of a state.
        tensorboard: folder for TensorBoard, or None.
    """

    state: Path
    device: str | None = None
    threads: int | None = None
    stop: Stop = field(default_factory=Stop)
    source: str = ""
    tensorboard: Path | None = None


@dataclass(frozen=True)
class Group:
    """Processes that train one model together; by default a single process.

    Attributes:
        rank: rank of this process, 0 to size - 1. Rank 0 writes files and messages.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Return whether this process writes files and messages for all."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes; the tensor itself is unchanged."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def rows(self, batch: int) -> range:
        """Return the rows of a batch that this process computes."""
        return range(self.rank * batch // self.size, (self.rank + 1) * batch // self.size)


def choose_device(compute: Compute, override: str | None = None) -> torch.device:
    """Return the device to run on. Each of several processes gets a GPU of its own.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    wanted = override or compute.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "compute.device is 'cuda' and this machine shows no GPU; accepted: a job on a machine with a GPU, "
            "`--device cpu` or compute.device: auto to run on the CPU all the same, or a smaller preset (`--preset demo`)"
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(_of_torchrun("LOCAL_RANK", "0")))


def set_up(compute: Compute, device: str | None, threads: int | None) -> torch.device:
    """Choose the device, set the threads, keep freed memory, and ask a GPU for repeatable algorithms and full float32 precision."""
    if threads is not None:
        torch.set_num_threads(threads)
    _keep_freed_memory()
    chosen = choose_device(compute, device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # training convolves in bfloat16 there; what is reported is float32
    return chosen


def _of_torchrun(variable: str, alone: str) -> str:
    """Return a variable that torchrun set; a variable inherited from another launcher is ignored."""
    return os.environ.get(variable, alone) if "TORCHELASTIC_RUN_ID" in os.environ else alone


@contextmanager
def group_of(device: torch.device) -> Iterator[Group]:
    """Connect the processes that torchrun started while the context is active; without torchrun there is a single process."""
    size = int(_of_torchrun("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step, because fetching it again took a tenth of the time of a step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # another C library
    trim_threshold, mmap_max = -1, -4
    mallopt(trim_threshold, -1)  # never give back
    mallopt(mmap_max, 0)  # no maps of their own for large blocks


def images_to_tensor(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return a uint8 (N, H, W, 3) array as a uint8 (N, 3, H, W) tensor on the device."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
