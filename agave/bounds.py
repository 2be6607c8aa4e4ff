"""The training objective and the reported bounds, from per-image terms in nats: pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """The unreduced terms of one batch.

    Attributes:
        kl: (B,) sampled KL of the posterior from the prior, nats per image; zeros without latent variables.
        log_prob_x: (B,) log p(x | x_<, f(z)), nats per image; None without a PixelCNN.
        log_prob_y: (B,) log p(y | f(z)), nats per image; None without a VAE.
        kl_objective: () KL of the objective, nats summed over the batch: with free bits, otherwise the sum of `kl`.
    """

    kl: Tensor
    log_prob_x: Tensor | None
    log_prob_y: Tensor | None
    kl_objective: Tensor


def objective(terms: Terms, kl_weight: float, auxiliary: bool = True) -> Tensor:
    """The loss that is minimized, nats per image: the negative of Eq. 7, averaged over the batch.

    Args:
        terms: of the batch.
        kl_weight: the paper's lambda.
        auxiliary: whether log p(y|z) counts; without it the objective is Eq. 6 with a weight on the KL.

    Returns:
        Scalar, nats per image.

    Source: AGAVE paper, Eq. 7.
    """
    loss = kl_weight * terms.kl_objective
    if terms.log_prob_x is not None:
        loss = loss - terms.log_prob_x.sum()
    if terms.log_prob_y is not None and auxiliary:
        loss = loss - terms.log_prob_y.sum()
    return loss / terms.kl.shape[0]


def free_bits(kl_maps: Tensor, minimum: float) -> Tensor:
    """KL of the objective with free bits, nats summed over the batch.

    Args:
        kl_maps: (B, G) KL of each latent feature map, nats.
        minimum: nats per feature map below which its batch mean costs nothing less; 0 switches free bits off.

    Source: Kingma et al. (2016), appendix C.8; the published code takes the batch mean per feature map.
    """
    if minimum == 0:
        return kl_maps.sum()
    return kl_maps.mean(0).clamp(min=minimum).sum() * kl_maps.shape[0]


def elbo(terms: Terms) -> Tensor:
    """The one-sample bound on log p(x), nats per image (B,): free of the KL weight and, with a PixelCNN, of y.

    Source: AGAVE paper, Eq. 6; Eq. 3 for the VAE alone.
    """
    # PAPER: the footnote says Figures 4 and 5 show "the bound in Eq. 7"; a bound on x has neither the KL weight nor y, so
    # they are read as the one-sample bound split into its terms.
    reconstruction = terms.log_prob_x if terms.log_prob_x is not None else terms.log_prob_y
    assert reconstruction is not None, "a model has at least one of the two networks"
    return reconstruction - terms.kl


class StreamingLogMeanExp:
    """log of the mean of exp(log-weights), fed in any number of pieces: the importance-weighted bound.

    L_K = log (1/K) sum_k exp(w_k) with w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x). Float64 throughout: the weights are
    thousands of nats and their differences decide.

    Args:
        shape: of one sample's log-weights, for example (B,).
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
        """The bound so far, nats, float64, of the given shape.

        Raises:
            ValueError: no sample has been added.
        """
        if self.count == 0:
            raise ValueError("no log-weights have been added; accepted: at least one update")
        pivot = torch.where(torch.isinf(self._maximum) & (self._maximum < 0), 0.0, self._maximum)
        return pivot + torch.log(self._sum) - math.log(self.count)
