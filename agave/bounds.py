"""The importance-weighted bound on a log-likelihood (IWAE); `agave.evaluation.importance` computes it for the test images."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class StreamingLogMeanExp:
    """Accumulate the importance-weighted bound: the log of the mean of exp(log-weights), given in any number of pieces.

    L_K = log (1/K) sum_k exp(w_k) with w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x). All sums are in float64, because the weights are
    thousands of nats and only their differences matter.

    Args:
        shape: shape of one sample's log-weights, for example (B,).
        device: where to accumulate.

    Source: Burda et al. (2016), Eq. 8.
    """

    def __init__(self, shape: int | tuple[int, ...] | torch.Size, device: torch.device | str = "cpu") -> None:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self._maximum = torch.full(shape, -math.inf, dtype=torch.float64, device=device)
        self._sum = torch.zeros(shape, dtype=torch.float64, device=device)
        self.count = 0

    def update(self, log_weights: Tensor) -> None:
        """Add one sample (shape) or several (n, *shape), nats.

        Raises:
            ValueError: the shape does not fit.
        """
        shape = self._sum.shape
        log_weights = torch.as_tensor(log_weights).to(self._sum)
        if log_weights.shape == shape:
            log_weights = log_weights.unsqueeze(0)
        if log_weights.shape[1:] != shape:
            raise ValueError(f"log_weights have shape {tuple(log_weights.shape)}; accepted: {tuple(shape)} or (n, *{tuple(shape)})")
        if log_weights.shape[0] == 0:
            return
        maximum = torch.maximum(self._maximum, log_weights.max(0).values)
        pivot = torch.where(torch.isinf(maximum) & (maximum < 0), 0.0, maximum)  # all weights zero so far: nothing to shift by
        self._sum = self._sum * torch.exp(self._maximum - pivot) + torch.exp(log_weights - pivot).sum(0)
        self._maximum = maximum
        self.count += log_weights.shape[0]

    def result(self) -> Tensor:
        """Return the bound so far, nats, float64, of the given shape.

        Raises:
            ValueError: no sample has been added.
        """
        if self.count == 0:
            raise ValueError("no log-weights have been added; accepted: at least one update")
        pivot = torch.where(torch.isinf(self._maximum) & (self._maximum < 0), 0.0, self._maximum)
        return pivot + torch.log(self._sum) - math.log(self.count)
