"""Measures of images for the claims: one value, or a few, for each image. Pure functions of arrays."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Values = NDArray[np.float64]

BLOCK = 4
"""Side of the squares, in pixels, whose means are the low-passed image; the rest is detail."""


def low_passed(images: Images) -> Values:
    """Average over squares of BLOCK pixels.

    Args:
        images: (N, H, W, 3). Rows and columns at the end that make no whole square are left out.

    Returns:
        (N, H // BLOCK, W // BLOCK, 3), in [0, 255].
    """
    from skimage.measure import block_reduce

    means: Values = block_reduce(_whole_squares(images), (1, BLOCK, BLOCK, 1), np.mean)
    return means


def detail(images: Images) -> Values:
    """Return the image minus its low-passed form: (N, H, W, 3), grey levels around 0."""
    left: Values = _whole_squares(images) - low_passed(images).repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)
    return left


def _whole_squares(images: Images) -> Images:
    return images[:, : images.shape[1] // BLOCK * BLOCK, : images.shape[2] // BLOCK * BLOCK]


def detail_power(images: Images) -> Values:
    """Return the mean square of the detail of each image, grey levels squared: (N,)."""
    power: Values = np.square(detail(images)).mean((1, 2, 3))
    return power


def rms_difference(first: Images, second: Images) -> Values:
    """Return the root mean square difference of each pair, grey levels: (N,)."""
    from skimage.metrics import mean_squared_error

    roots: Values = np.sqrt([mean_squared_error(a, b) for a, b in zip(first, second, strict=True)])
    return roots


def psnr(first: Images, second: Images) -> Values:
    """Return the peak signal-to-noise ratio of each pair, dB: (N,). Equal images count as one grey level in one value."""
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        ratios = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(first, second, strict=True)]
    capped: Values = np.minimum(ratios, 10 * np.log10(255**2 * first[0].size))
    return capped


def correlation(first: Values, second: Values) -> Values:
    """Return the Pearson correlation of each pair over all its values: (N,); 0 where one of the two is constant."""
    from scipy.stats import ConstantInputWarning, NearConstantInputWarning, pearsonr

    with warnings.catch_warnings():
        for category in (ConstantInputWarning, NearConstantInputWarning):
            warnings.simplefilter("ignore", category)
        found: Values = pearsonr(first.reshape(len(first), -1), second.reshape(len(second), -1), axis=1).statistic
    return np.where(np.isnan(found), 0.0, found)


def log_spectrum(images: Images) -> Values:
    """Return the radially averaged power of the grey image, log10 of grey levels squared.

    Args:
        images: (N, H, H, 3).

    Returns:
        (N, H // 2), one value per frequency from 1 to H // 2.
    """
    grey = images.astype(np.float64).mean(3)
    size = grey.shape[1]
    power = np.square(np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True)))) / size**2
    frequency = np.fft.fftfreq(size, 1 / size)
    radius = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    rings = [power[:, radius == ring].mean(1) for ring in range(1, size // 2 + 1)]
    spectrum: Values = np.log10(np.stack(rings, axis=1) + 1e-3)  # a constant image has no power at all
    return spectrum
