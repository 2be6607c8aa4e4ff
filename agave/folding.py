"""Weight normalisation computed once instead of in every forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from agave.models.layers import WeightNormConv2d


@contextmanager
def folded(module: nn.Module) -> Iterator[None]:
    """While active, the weight-normalised layers of `module` use the effective weights that they had at the start."""
    layers = [layer for layer in module.modules() if isinstance(layer, WeightNormConv2d)]
    with torch.no_grad():
        for layer in layers:
            weight = layer.weight()
            layer.__dict__["weight"] = lambda weight=weight: weight  # shadows the method of the class
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["weight"]
