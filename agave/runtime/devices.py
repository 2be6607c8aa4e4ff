"""The processes of one training, one a device, and how memory is kept between steps."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from agave.config import Compute
from agave.errors import UserError


@dataclass(frozen=True)
class Group:
    """Processes that train one model together; the default is one process alone.

    Attributes:
        rank: of this process, 0 to size - 1. Rank 0 writes and speaks.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes; the tensor itself is left as it is."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def rows(self, batch: int) -> range:
        """Which rows of a batch this process computes."""
        return range(self.rank * batch // self.size, (self.rank + 1) * batch // self.size)


def choose_device(compute: Compute, override: str | None = None) -> torch.device:
    """The device to run on: of several processes, each its own GPU.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    wanted = override or compute.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "compute.device is 'cuda' and this machine shows no GPU; accepted: a job on a machine with a GPU, "
            "`--device cpu` or compute.device: auto to run on the processor all the same, or a smaller preset (`--preset demo`)"
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def set_up(compute: Compute, device: str | None, threads: int | None) -> torch.device:
    """Choose the device, pin the threads, keep freed memory, and ask a GPU for repeatable algorithms and full float32 precision."""
    if threads is not None:
        torch.set_num_threads(threads)
    _keep_freed_memory()
    chosen = choose_device(compute, device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # training convolves in bfloat16 there; what is reported is float32
    return chosen


@contextmanager
def group_of(device: torch.device) -> Iterator[Group]:
    """The processes that torchrun started together with this one, connected while active."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step: fetching it anew, page by page, took a tenth of a step's time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # another C library
    trim_threshold, mmap_max = -1, -4
    mallopt(trim_threshold, -1)  # never give back
    mallopt(mmap_max, 0)  # no maps of their own for large blocks
