"""Draw images from a window-limited PixelCNN, pixel by pixel: every pixel needs no more than its window."""

from __future__ import annotations

import torch
from torch import Tensor

from agave.config import Sample
from agave.likelihoods import sample_mixture
from agave.models.layers import folded
from agave.models.window_pixelcnn import WindowPixelCNN
from agave.random_numbers import KeyedNumbers
from agave.runtime.progress import Progress


@torch.inference_mode()
def sample_in_windows(
    decoder: WindowPixelCNN,
    features: Tensor,
    *,
    seed: int,
    first: int,
    stream: int,
    options: Sample | None = None,
    label: str | None = None,
) -> Tensor:
    """Draw one image for each row of features, all images in step.

    Args:
        decoder: the network.
        features: (B, feature_channels, H, W).
        seed: seed of the noise, keyed by image.
        first: index of the first image.
        stream: purpose of the noise, see `agave.random_numbers`.
        options: `round_pixels` and `temperature`, see `likelihoods.sample_mixture`; None: rounded, temperature 1.
        label: name under which progress is shown; None shows none.

    Returns:
        uint8 (B, 3, H, W).
    """
    batch, _, height, width = features.shape
    round_pixels, temperature = (options.round_pixels, options.temperature) if options else (True, 1.0)
    numbers = KeyedNumbers(seed, stream, range(first, first + batch))
    uniforms = numbers.uniform(0, (batch, height, width, decoder.mixtures + 3), features)
    x = features.new_zeros(batch, 3, height, width)
    progress = Progress(height, label, "row") if label else None
    with folded(decoder):
        for row in range(height):
            for column in range(width):
                logits, noise = decoder.logits_of_pixel(x, features, row, column), uniforms[:, row, column]
                x[:, :, row, column] = sample_mixture(logits, noise[:, :-3], noise[:, -3:], round_pixels, temperature)
            if progress is not None:
                progress.update()
    return torch.round(x * 127.5 + 127.5).to(torch.uint8)
