"""Compute the one-sample bound, split into its terms."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.likelihoods import bits_per_dim
from agave.models.interface import LikelihoodModel
from agave.random_numbers import POSTERIOR, KeyedNumbers
from agave.runtime.prefetch import made_ahead
from agave.runtime.progress import Progress
from agave.statistics import standard_error_of_images

Array = NDArray[np.float64]


MAPPED_IMAGES = 6
"""Number of images, the first ones, of which the bits of every pixel can be kept."""


@torch.inference_mode()
def one_sample_terms(
    model: LikelihoodModel, x_uint8: Tensor, y_uint8: Tensor, *, seed: int, batch: int, label: str = "evaluate", mapped: int = 0
) -> dict[str, Array]:
    """Return the terms of the one-sample bound for every image.

    Args:
        model: a model in evaluation mode.
        x_uint8: (N, 3, H, W).
        y_uint8: (N, 3, r, r).
        seed: seed of the latent noise, keyed by image.
        batch: images per forward pass.
        label: name shown by the progress bar.
        mapped: number of images, the first ones, of which the bits of every pixel are returned.

    Returns:
        "kl", "log_prob_x" and "log_prob_y" (N,), nats; and of log_prob_x the bits of each pixel, "bits_map" (H, W), their mean over all
        images, and "bits_of_pixels" (mapped, H, W). What the system lacks is left out. All float64.
    """
    found: dict[str, list[Tensor]] = {"kl": [], "log_prob_x": [], "log_prob_y": []}
    of_pixels: list[Tensor] = []
    pieces = [range(len(x_uint8))[start : start + batch] for start in range(0, len(x_uint8), batch)]
    total = x_uint8.new_zeros(x_uint8.shape[2:], dtype=torch.float64)
    noises = made_ahead(model.draw_noise, ((len(images), KeyedNumbers(seed, POSTERIOR, images)) for images in pieces), x_uint8.device)
    with Progress(len(x_uint8), label, "image") as progress:
        for images, noise in zip(pieces, noises, strict=True):
            piece = slice(images.start, images.stop)
            terms = model(x_uint8[piece], y_uint8[piece], noise)
            for name, values in found.items():
                value = getattr(terms, name)
                if value is not None:
                    values.append(value.double())  # stays on its device: nothing waits for a batch
            if terms.log_prob_pixels is not None:
                bits = -terms.log_prob_pixels.double() / math.log(2)  # (B, H, W)
                total = total + bits.sum(0)
                of_pixels.append(bits[: max(0, mapped - images.start)])
            progress.update(len(images))
    joined = {name: torch.cat(values) for name, values in found.items() if values}
    if of_pixels:
        joined["bits_map"] = total / len(x_uint8)
    if of_pixels and mapped:
        joined["bits_of_pixels"] = torch.cat(of_pixels)
    return {name: values.cpu().numpy() for name, values in joined.items()}


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
