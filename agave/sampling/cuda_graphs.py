"""Run repeated steps as CUDA graphs: on a GPU a step of hundreds of small kernels costs one launch. Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch


class RecordedSteps:
    """Run steps; on a GPU a step that is repeated is recorded once and replayed from then on.

    Steps of one key must do the same operations on the same addresses: what differs between them is in tensors that are
    overwritten in place. On a CPU steps just run.

    Args:
        device: device on which the steps run.
        record: whether steps are recorded; False only runs them.
    """

    def __init__(self, device: torch.device, record: bool = True) -> None:
        self._records = record and device.type == "cuda"
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._records else None

    def run(self, key: Hashable, step: Callable[[], object]) -> None:
        """Run a step. The first step of a key runs without recording, which also prepares the libraries for it."""
        if not self._records or key not in self._seen:
            self._seen.add(key)
            step()
            return
        if key not in self._graphs:
            self._graphs[key] = self.record(step)
        self._graphs[key].replay()

    def record(self, step: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """Record a step without running it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        return graph
