"""Measures of images for the claims: one value, or a few, for each image. Pure functions of arrays.

`measure` takes all of them from the images that were drawn for a cell, so that the claims need no image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Values = NDArray[np.float64]

BLOCK = 4
"""Side of the squares, in pixels, whose means are the low-passed image; the rest is detail."""

COARSE = 8
"""Height and width of a coarse image, in squares."""


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


def log_detail(images: Images) -> Values:
    """Return the power of the detail of each image, log10 of grey levels squared: (N,)."""
    return np.log10(detail_power(images) + 1e-3)


def own_minus_other(sample: Images, features: Images) -> Values:
    """Return how much better the shape of a sample correlates with its own f(z) than with that of the next image: (N,)."""
    shape, own = low_passed(sample), low_passed(features)
    return correlation(shape, own) - correlation(shape, np.roll(own, 1, axis=0))


def shape_minus_detail_kept(reconstruction: Images, original: Images) -> Values:
    """Return the correlation of the shapes of two images less that of their details: (N,)."""
    shape = correlation(low_passed(reconstruction), low_passed(original))
    return shape - correlation(detail(reconstruction), detail(original))


def coarse(images: Images) -> Images:
    """Average over the squares of a grid of COARSE x COARSE, and round.

    Args:
        images: (N, H, H, 3), H at least COARSE. Rows and columns at the end that make no whole square are left out.

    Returns:
        uint8 (N, COARSE * COARSE * 3).
    """
    count, side = len(images), images.shape[1] // COARSE
    whole = images[:, : side * COARSE, : side * COARSE]
    squares = whole.reshape(count, COARSE, side, COARSE, side, 3)  # (N, row, y, column, x, colour)
    means: Images = np.rint(squares.mean((2, 4))).astype(np.uint8)  # (N, row, column, colour)
    return means.reshape(count, -1)


def standardised(images: NDArray[Any], reference: NDArray[Any]) -> Values:
    """Return the coefficients of coarse images in a cosine transform, each divided by its spread over reference images.

    Natural images vary much more in coarse waves than in fine ones. Scaled like this, all waves count alike in a distance.

    Args:
        images: (..., COARSE * COARSE * 3), of `coarse`.
        reference: (M, COARSE * COARSE * 3).

    Returns:
        The shape of `images`; coefficients that the reference images have in common are not scaled.
    """
    from scipy.fft import dctn

    def waves(some: NDArray[Any]) -> Values:
        squares = some.reshape(*some.shape[:-1], COARSE, COARSE, 3).astype(np.float64)
        return np.asarray(dctn(squares, axes=(-3, -2), norm="ortho")).reshape(some.shape)

    spread = waves(reference).std(0)
    scaled: Values = waves(images) / np.where(spread > 1e-9, spread, 1.0)
    return scaled


PER_IMAGE: dict[str, tuple[Sequence[str], Callable[..., Values | Images]]] = {
    "reconstruction_psnr": (["reconstruction", "original"], psnr),
    "reconstruction_detail": (["reconstruction"], log_detail),
    "shape_minus_detail_kept": (["reconstruction", "original"], shape_minus_detail_kept),
    "prior_detail": (["prior"], log_detail),
    "prior_detail_of_data": (["prior", "original"], lambda prior, data: log_detail(prior) - log_detail(data)),
    "draw_detail_of_data": (["prior_draw", "original"], lambda drawn, data: log_detail(drawn) - log_detail(data)),
    "own_minus_other": (["reconstruction_sample", "reconstruction"], own_minus_other),
    "reconstruction_change": (["reconstruction_sample", "reconstruction"], rms_difference),
    "detail_added": (["reconstruction_sample", "reconstruction"], lambda sample, mean: log_detail(sample) - log_detail(mean)),
    "spectrum_of_reconstruction": (["reconstruction"], log_spectrum),
    "spectrum_of_prior": (["prior"], log_spectrum),
    "spectrum_of_prior_sample": (["prior_sample"], log_spectrum),
    "coarse_prior_sample": (["prior_sample"], coarse),
}
"""Measures by name: the arrays of samples.npz that each is of, and the function."""

OF_TEST_IMAGES: dict[str, Callable[[Images], Values | Images]] = {"spectrum_of_original": log_spectrum, "coarse_original": coarse}
"""Measures of the test images alone, which are the same for every cell."""


def measure(images: Mapping[str, Images], *, test_images: bool) -> dict[str, NDArray[Any]]:
    """Take all measures whose images are there.

    Args:
        images: the arrays of samples.npz, uint8 (N, height, width, 3). A measure of images smaller than BLOCK, or of different sizes, is
            left out.
        test_images: whether to measure the test images alone as well.

    Returns:
        {name: (N,) or (N, k)}: float32, or uint8 for coarse images.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, (keys, function) in PER_IMAGE.items():
        given = [images[key] for key in keys if key in images]
        if len(given) == len(keys) and len({one.shape for one in given}) == 1 and given[0].shape[1] >= BLOCK:
            found[name] = function(*given)
    if test_images:
        found |= {name: function(images["original"]) for name, function in OF_TEST_IMAGES.items()}
    return {name: array if array.dtype == np.uint8 else array.astype(np.float32) for name, array in found.items()}
