"""Properties that the paper claims of the model itself, computed with untrained networks of a preset's size; no result is read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agave.config import Params
from agave.likelihoods import discretized_logistic_log_prob
from agave.models.interface import Terms
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.models.vae_iaf import VAEIAF
from agave.objective import objective
from agave.random_numbers import StepNumbers


def _gradients(params: Params, by_features: bool) -> dict[str, Tensor]:
    """Return sums over channels of |d logits at a pixel / d input| (H, W), for a pixel near each corner and in the middle."""
    size, sizes = params.prepare.image_size, params.model.pixelcnn_pp
    torch.manual_seed(0)
    network = PixelCNNpp(sizes.filters, sizes.resnets, sizes.mixtures, sizes.resolutions, 3, stream_channels=sizes.stream_channels)
    network.double().eval()
    x, features = (2 * torch.rand(1, 3, size, size, dtype=torch.float64) - 1 for _ in range(2))
    wanted = (features if by_features else x).requires_grad_()
    logits = network(x, features)
    found = {}
    for row, column in ((1, 0), (1, size - 2), (size // 2, size // 2), (size - 2, 1)):
        (gradient,) = torch.autograd.grad(logits[0, :, row, column].square().sum(), wanted, retain_graph=True)
        found[f"pixel ({row}, {column})"] = gradient[0].abs().sum(0)
    return found


def future_pixels(params: Params) -> dict[str, float]:
    """Return the largest gradient of logits by their own pixel or one after it in raster order; 0 for an autoregressive network."""
    found = {}
    for name, gradient in _gradients(params, by_features=False).items():
        row, column = (int(part.strip("()")) for part in name.removeprefix("pixel ").split(", "))
        found[name] = float(gradient.flatten()[row * gradient.shape[1] + column :].max())
    return found


def future_features(params: Params) -> dict[str, float]:
    """Count the positions after the pixel at which f(z) changes its logits."""
    found = {}
    for name, gradient in _gradients(params, by_features=True).items():
        row, column = (int(part.strip("()")) for part in name.removeprefix("pixel ").split(", "))
        found[name] = float((gradient.flatten()[row * gradient.shape[1] + column + 1 :] != 0).sum())
    return found


def _terms() -> Terms:
    generator = torch.Generator().manual_seed(0)
    kl, x, y = (1000 * torch.rand(50, generator=generator, dtype=torch.float64) + 1 for _ in range(3))
    return Terms(kl, -x, -y, kl.sum())


def objective_identities(_: Params) -> dict[str, float]:
    """Return Eq. 7 less the bound on log p(x, y) at KL weight 1, and less the sum of the bounds on log p(x) and log p(y) at 2, nats."""
    terms = _terms()
    assert terms.log_prob_x is not None and terms.log_prob_y is not None
    both = (terms.log_prob_x + terms.log_prob_y - terms.kl).mean()
    apart = (terms.log_prob_x - terms.kl).mean() + (terms.log_prob_y - terms.kl).mean()
    differences = {"λ 1": float(-objective(terms, 1.0) - both), "λ 2": float(-objective(terms, 2.0) - apart)}
    return {name: round(value, 9) + 0.0 for name, value in differences.items()}  # rounding of sums is not the same on every CPU


def objective_beyond_2(_: Params) -> dict[str, float]:
    """Return Eq. 7 at larger KL weights less the sum of the bounds on log p(x) and log p(y), nats."""
    terms = _terms()
    apart = -objective(terms, 2.0)
    return {f"λ {weight:g}": float(-objective(terms, weight) - apart) for weight in (4.0, 8.0, 12.0)}


@torch.no_grad()
def dependent_values(params: Params) -> dict[str, float]:
    """Count the terms of log p(y|z) that change when another value of y does, given a z drawn from the prior."""
    size, sizes = params.prepare.image_size, params.model.vae
    torch.manual_seed(0)
    vae = VAEIAF(size, size, sizes.depth, sizes.blocks, sizes.hidden, sizes.latent)
    mean, _ = vae.decode(None, vae.latent_noise(1, StepNumbers()))
    y = torch.randint(0, 256, mean.shape, dtype=torch.uint8)
    other = y.clone()
    other[0, 1, size // 2, size // 2] ^= 255
    before, after = (discretized_logistic_log_prob(one, mean, vae.log_scale) for one in (y, other))
    return {"values": float((before != after).sum() - 1)}


CHECKS: dict[str, Callable[[Params], dict[str, float]]] = {
    check.__name__: check for check in (future_pixels, future_features, objective_identities, objective_beyond_2, dependent_values)
}
