"""The training objective of the paper (Eq. 7), as pure functions of per-image terms in nats."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agave.models.interface import Terms


@dataclass(frozen=True)
class Objective:
    """The loss that a training minimizes.

    Attributes:
        kl_weight: the paper's lambda.
        auxiliary: whether log p(y|z) counts (Eq. 7) or not (Eq. 6).
    """

    kl_weight: float
    auxiliary: bool = True


def objective(terms: Terms, kl_weight: float, auxiliary: bool = True) -> Tensor:
    """Return the loss, nats per image: the negative of Eq. 7, averaged over the batch.

    Args:
        terms: terms of the batch.
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
    """Return the KL of the objective with free bits, nats summed over the batch.

    Args:
        kl_maps: (B, G) KL of each latent feature map, nats.
        minimum: nats per feature map below which its batch mean costs nothing less; 0 switches free bits off.

    Source: Kingma et al. (2016), appendix C.8; the published code takes the batch mean per feature map.
    """
    if minimum == 0:
        return kl_maps.sum()
    return kl_maps.mean(0).clamp(min=minimum).sum() * kl_maps.shape[0]
