"""Keeping a GPU busy: what it reads is made ahead of time, what it returns is fetched when it has arrived. On a CPU nothing changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from agave.random_numbers import RandomNumbers

Item = TypeVar("Item")
Made = TypeVar("Made")


class HostNumbers:
    """Random numbers of another source, made on the CPU: the same values, to be handed to the device of the model later.

    Args:
        numbers: the other source.
    """

    def __init__(self, numbers: RandomNumbers) -> None:
        self._numbers = numbers

    def normal(self, index: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return standard normal numbers with the dtype of `like`, on the CPU."""
        return self._numbers.normal(index, shape, _on_cpu(like))

    def uniform(self, index: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return uniform numbers in (0, 1) with the dtype of `like`, on the CPU."""
        return self._numbers.uniform(index, shape, _on_cpu(like))

    def masks(self, batch: int, shapes: Sequence[tuple[int, ...]], probability: float, like: Tensor) -> list[Tensor]:
        """Return booleans (batch, *shape) for each shape, on the CPU."""
        return self._numbers.masks(batch, shapes, probability, _on_cpu(like))


def made_ahead(
    draw: Callable[[int, RandomNumbers], Made], sources: Iterable[tuple[int, RandomNumbers]], device: torch.device
) -> Iterator[Made]:
    """Yield what `draw` makes for each batch, on a device.

    For a GPU it is made by a thread in the background, two ahead, and copied from pinned memory without waiting. The numbers are the
    same on every device.

    Args:
        draw: makes a tree of tensors for a number of rows from a source of random numbers: `model.draw_noise`.
        sources: rows of each batch and its random numbers, in the order in which they are needed.
        device: where the tensors are needed.
    """
    if device.type != "cuda":
        yield from (draw(batch, numbers) for batch, numbers in sources)
        return

    def make(source: tuple[int, RandomNumbers]) -> Made:
        return tree_map(_pinned, draw(source[0], HostNumbers(source[1])))  # type: ignore[no-any-return]

    with ThreadPoolExecutor(1, "noise") as pool:
        waiting, left = deque[object](), iter(sources)
        waiting.extend(pool.submit(make, source) for source in islice(left, 2))
        while waiting:
            made = waiting.popleft().result()  # type: ignore[attr-defined]
            waiting.extend(pool.submit(make, source) for source in islice(left, 1))
            yield tree_map(lambda tensor: hand_over(tensor, device), made)


def hand_over(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for what the device still has to do."""
    if device.type == "cpu":
        return tensor
    return _pinned(tensor).to(device, non_blocking=True)


class Arriving:
    """A tensor on its way to the CPU.

    Args:
        tensor: on any device; a GPU goes on while its values are copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = tensor
        if tensor.device.type == "cuda":
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def values(self) -> Tensor:
        """Return the tensor on the CPU; waits for it, and for nothing that was asked of the GPU later."""
        if self._event is not None:
            self._event.synchronize()
        return self._values


def started_ahead(items: Iterable[Item], device: torch.device) -> Iterator[Item]:
    """Yield items; for a GPU each one only when the next one has been started, so that the GPU has work while the CPU uses its results."""
    waiting, ahead = deque[Item](), 1 if device.type == "cuda" else 0
    for item in items:
        waiting.append(item)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _on_cpu(like: Tensor) -> Tensor:
    return torch.empty(0, dtype=like.dtype)


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
