"""Random numbers keyed by what they are for, so that no result depends on batches, shards or order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from agave.models.vae_iaf import Noise

POSTERIOR, PRIOR, PIXELS_GIVEN_POSTERIOR, PIXELS_GIVEN_PRIOR, PIXELS = range(5)
"""What noise is for: streams that never overlap."""


def generator(seed: int, image: int, sample: int, stream: int, layer: int = 0) -> np.random.Generator:
    """Counter-based generator of one (seed, image, sample, stream, layer).

    Source: Salmon et al. (2011), Philox; the key holds seed and image, the upper counter words sample, stream and layer.
    """
    counter = np.array([0, layer, sample, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, image], dtype=np.uint64), counter=counter))


def keyed_noise(seed: int, stream: int, images: Sequence[int], samples: Sequence[int], like: Tensor) -> Noise:
    """Latent noise for a batch whose rows are (image, sample) pairs.

    Args:
        seed: of the experiment.
        stream: POSTERIOR or PRIOR.
        images: image index of each row.
        samples: sample index of each row.
        like: a tensor with the wanted dtype and device.

    Returns:
        A function (layer, shape) -> standard normal noise of that shape.
    """

    def noise(layer: int, shape: tuple[int, ...]) -> Tensor:
        rows = [
            generator(seed, image, sample, stream, layer).standard_normal(shape[1:], dtype=np.float32)
            for image, sample in zip(images, samples, strict=True)
        ]
        return torch.from_numpy(np.stack(rows)).to(like)

    return noise


def keyed_uniforms(seed: int, stream: int, images: Sequence[int], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uniform numbers in [1e-5, 1 - 1e-5), one row per image.

    Args:
        seed: of the experiment.
        stream: what they are for.
        images: image index of each row.
        shape: of one row.
        like: a tensor with the wanted dtype and device.

    Returns:
        (len(images), *shape).

    Source: the range is that of the published PixelCNN++ sampler.
    """
    rows = [generator(seed, image, 0, stream).random(shape) for image in images]
    return torch.from_numpy(1e-5 + (1 - 2e-5) * np.stack(rows)).to(like)
