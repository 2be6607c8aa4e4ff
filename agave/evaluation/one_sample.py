"""Compute the one-sample bound, split into its terms."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.likelihoods import bits_per_dim
from agave.models.interface import LikelihoodModel
from agave.random_numbers import POSTERIOR, KeyedNumbers
from agave.runtime.progress import Progress
from agave.statistics import standard_error_of_images

Array = NDArray[np.float64]


@torch.inference_mode()
def one_sample_terms(
    model: LikelihoodModel, x_uint8: Tensor, y_uint8: Tensor, *, seed: int, batch: int, label: str = "evaluate"
) -> dict[str, Array]:
    """Return the terms of the one-sample bound for every image.

    Args:
        model: a model in evaluation mode.
        x_uint8: (N, 3, H, W).
        y_uint8: (N, 3, r, r).
        seed: seed of the latent noise, keyed by image.
        batch: images per forward pass.
        label: name shown by the progress bar.

    Returns:
        {"kl", "log_prob_x", "log_prob_y"}: (N,) nats, float64. Terms that the system lacks are left out.
    """
    found: dict[str, list[Tensor]] = {"kl": [], "log_prob_x": [], "log_prob_y": []}
    with Progress(len(x_uint8), label, "image") as progress:
        for start in range(0, len(x_uint8), batch):
            x, y = x_uint8[start : start + batch], y_uint8[start : start + batch]
            images = range(start, start + len(x))
            terms = model(x, y, model.draw_noise(len(x), KeyedNumbers(seed, POSTERIOR, images)))
            for name, values in found.items():
                value = getattr(terms, name)
                if value is not None:
                    values.append(value.double().cpu())
            progress.update(len(x))
    return {name: torch.cat(values).numpy() for name, values in found.items() if values}


def bound_columns(terms: dict[str, Array], dimensions: int, auxiliary_dimensions: int) -> dict[str, float | None]:
    """Return means over images and their standard errors, from the per-image terms in nats.

    Args:
        terms: result of `one_sample_terms`.
        dimensions: D = 3 H W of x.
        auxiliary_dimensions: E = 3 r^2 of y.

    Returns:
        kl, vae_reconstruction, pixelcnn_reconstruction (bits per dimension of x), vae_bits_per_dim (bits per dimension of y),
        pixelcnn_bits_per_dim (of x), each with its standard error; None where the system has no such term.
    """
    kl = bits_per_dim(terms["kl"], dimensions)
    x = bits_per_dim(-terms["log_prob_x"], dimensions) if "log_prob_x" in terms else None
    y = bits_per_dim(-terms["log_prob_y"], dimensions) if "log_prob_y" in terms else None
    columns = {
        "kl": kl,
        "vae_reconstruction": y,
        "pixelcnn_reconstruction": x,
        "vae_bits_per_dim": None if y is None else (kl + y) * dimensions / auxiliary_dimensions,
        "pixelcnn_bits_per_dim": None if x is None else kl + x,
    }
    found = {name: mean_and_error(name, value) for name, value in columns.items()}
    means = {name: found[name][name] for name in columns}
    return means | {key: value for name in columns for key, value in found[name].items() if key != name}


def mean_and_error(name: str, values: Array | None) -> dict[str, float | None]:
    """Return the mean of values over images as `name`, and its standard error as `name`_standard_error; None for no values."""
    if values is None:
        return {name: None, f"{name}_standard_error": None}
    return {name: float(np.mean(values)), f"{name}_standard_error": standard_error_of_images(values.tolist())}
