"""Rows of history.csv: what they hold, and how a step that failed is described."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agave.models.interface import Terms
from agave.units import bits_per_dim

COLUMNS = ("kl", "vae_reconstruction", "pixelcnn_reconstruction", "total")

Row = dict[str, float | int | None]


def bits_of_terms(terms: Terms, dimensions: int) -> list[Tensor]:
    """Return batch means of KL, VAE reconstruction, PixelCNN reconstruction and total, bits/dim of x; zero where absent."""
    zero = torch.zeros((), dtype=torch.float64, device=terms.kl.device)

    def mean(nats: Tensor | None) -> Tensor:
        return zero if nats is None else torch.as_tensor(bits_per_dim(nats.detach().double().mean(), dimensions))

    kl, y, x = mean(terms.kl), -mean(terms.log_prob_y), -mean(terms.log_prob_x)
    return [kl, y, x, kl + (x if terms.log_prob_x is not None else y)]


def history_row(step: int, means: list[float] | None, terms: Terms, rate: float, skipped: int, speed: float) -> Row:
    """Return a row of history.csv: means since the last row; empty entries for terms that the system lacks."""
    found: list[float | None] = [*means] if means is not None else [None] * 5  # None: every update since the last row was skipped
    kl, y, x, total, norm = found
    return {
        "step": step,
        "kl": kl if terms.log_prob_y is not None else None,
        "vae_reconstruction": y if terms.log_prob_y is not None else None,
        "pixelcnn_reconstruction": x if terms.log_prob_x is not None else None,
        "total": total,
        "gradient_norm": norm,
        "learning_rate": rate,
        "skipped": skipped,
        "images_per_second": speed,
    }


def describe_fault(row: Tensor, limit: float) -> str:
    """Say which of the terms of a step are not finite, or that the gradient is too long."""
    values = dict(zip((*COLUMNS, "gradient_norm"), row.tolist(), strict=False))
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    fault = f"{', '.join(bad)} not finite" if bad else f"gradient_norm above skip_gradient_norm {limit:g}"
    return fault + " (" + ", ".join(f"{name} {value:.4g}" for name, value in values.items()) + ")"


def last_note(history: list[Row]) -> str:
    """Return the last total for the progress line."""
    total = history[-1]["total"] if history else None
    return "" if total is None else f"{total:.3f} bits/dim"
