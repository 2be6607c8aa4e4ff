"""What the claims are measured by: one value, or a few, for each image of a cell. Pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Values = NDArray[np.float64]

BLOCK = 4
"""Side of the squares, pixels, whose means are the low-passed image; what is left is detail."""


def low_passed(images: Images) -> Values:
    """Means over squares of BLOCK pixels: (N, H, W, 3) uint8 -> (N, H / BLOCK, W / BLOCK, 3) in [0, 255]."""
    n, height, width, colours = images.shape
    blocks = images.astype(np.float64).reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK, colours)
    means: Values = blocks.mean((2, 4))
    return means


def detail(images: Images) -> Values:
    """What low-passing takes away: (N, H, W, 3), grey levels around 0."""
    left: Values = images - low_passed(images).repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)
    return left


def detail_power(images: Images) -> Values:
    """Mean square of the detail of each image, grey levels squared: (N,)."""
    power: Values = np.square(detail(images)).mean((1, 2, 3))
    return power


def rms_difference(first: Images, second: Images) -> Values:
    """Root mean square difference of each pair, grey levels: (N,)."""
    difference = first.astype(np.float64) - second
    root: Values = np.sqrt(np.square(difference).mean((1, 2, 3)))
    return root


def psnr(first: Images, second: Images) -> Values:
    """Peak signal-to-noise ratio of each pair, dB: (N,). Equal images count as one grey level in one value."""
    error = np.square(first.astype(np.float64) - second).mean((1, 2, 3))
    ratio: Values = 10 * np.log10(255**2 / np.maximum(error, 1 / first[0].size))
    return ratio


def correlation(first: Values, second: Values) -> Values:
    """Pearson correlation of each pair over all its values: (N,); 0 where one of the two is constant."""
    a, b = (x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(1, keepdims=True) for x in (first, second))
    scale = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    found: Values = np.divide((a * b).sum(1), scale, out=np.zeros(len(a)), where=scale > 0)
    return found


def log_spectrum(images: Images) -> Values:
    """Radially averaged power of the grey image, log10 of grey levels squared: (N, H / 2), one value a frequency 1 to H / 2."""
    grey = images.astype(np.float64).mean(3)
    size = grey.shape[1]
    power = np.square(np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True)))) / size**2
    frequency = np.fft.fftfreq(size, 1 / size)
    radius = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    rings = [power[:, radius == ring].mean(1) for ring in range(1, size // 2 + 1)]
    spectrum: Values = np.log10(np.stack(rings, axis=1) + 1e-3)  # a constant image has no power at all
    return spectrum
