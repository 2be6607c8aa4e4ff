"""The symmetric whitening of images (ZCA)."""

from __future__ import annotations

import torch
from torch import Tensor

PIECE = 512  # images whose products are added at once


def fit_whitening(x_uint8: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the symmetric whitening (ZCA) of images with uniform noise, in units of [-1, 1].

    The products of 8-bit values are added as integers that float64 holds exactly: neither the order of the images nor the size of a piece
    changes a digit.

    Args:
        x_uint8: (N, 3, H, W), integers 0 to 255; D = 3 H W.
        ridge: variance added to every direction.

    Returns:
        mean (D,), W = (C + ridge)^(-1/2) (D, D) for the covariance C, and log det W (), float64, on the CPU.
    """
    images = x_uint8.flatten(1)
    dimension = images.shape[1]
    total = torch.zeros(dimension, dtype=torch.float64, device=images.device)
    covariance = torch.zeros(dimension, dimension, dtype=torch.float64, device=images.device)
    for piece in torch.split(images, PIECE):
        values = piece.double()
        total += values.sum(0)
        covariance.addmm_(values.T, values)  # sum of x x^T
    mean = total / len(images)
    covariance.div_(len(images)).addr_(mean, mean, alpha=-1).div_(128**2)
    # PAPER: NICE whitens exactly, which fewer images than values cannot define. We add a ridge (table1.nice.ridge). The variance of the
    # uniform noise, 1/12 of a squared level, is added in closed form.
    covariance.diagonal().add_(1 / 12 / 128**2 + ridge)
    variance, directions = torch.linalg.eigh(covariance.cpu())
    whitening = (directions * variance.rsqrt()) @ directions.T
    return (mean.cpu() + 0.5) / 128 - 1, whitening, -0.5 * variance.log().sum()
