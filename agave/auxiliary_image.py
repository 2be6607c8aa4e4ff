"""The auxiliary image y: x at a lower resolution, with fewer colour levels."""

from __future__ import annotations

import torch
from torch import Tensor


def auxiliary_image(x_uint8: Tensor, resolution: int) -> Tensor:
    """Return the box average of an image: every pixel of y is the mean of an s x s square of x, rounded to an integer.

    Args:
        x_uint8: uint8 (B, 3, H, H), 0 to 255.
        resolution: height and width r of y, pixels; divides H, with s = H / r. r = H gives x back.

    Returns:
        uint8 (B, 3, r, r), 0 to 255.

    Raises:
        ValueError: x is not uint8 (B, 3, H, H), or r does not divide H.

    Source: Lucas & Verbeek (2017), section 4.2: auxiliary images of 16 x 16 and 8 x 8 pixels.
    """
    if x_uint8.dtype != torch.uint8:
        raise ValueError(f"values of type {x_uint8.dtype}; accepted: torch.uint8, 0 to 255")
    if x_uint8.ndim != 4 or x_uint8.shape[1] != 3 or x_uint8.shape[2] != x_uint8.shape[3]:
        raise ValueError(f"x has shape {tuple(x_uint8.shape)}; accepted: (B, 3, H, H)")
    batch, channels, size, _ = x_uint8.shape
    if resolution < 1 or size % resolution:
        raise ValueError(f"resolution {resolution} does not divide the image size {size}; accepted: a divisor of {size}")
    scale = size // resolution
    # PAPER: The paper does not say how low-resolution images are made. Ours are box averages, rounded to integers so that Eq. 8 applies.
    squares = x_uint8.to(torch.int32).reshape(batch, channels, resolution, scale, resolution, scale)  # (B, 3, r, s, r, s)
    sums = squares.sum(dim=(3, 5))  # (B, 3, r, r)
    # Integer arithmetic: exact and the same on every device. A mean halfway between two integers is rounded up.
    return ((sums + scale**2 // 2) // scale**2).to(torch.uint8)


def quantize(y_uint8: Tensor, levels: int) -> Tensor:
    """Return the colour level of every value: floor(y / c) with c = 256 / b.

    Args:
        y_uint8: integers 0 to 255, any shape.
        levels: number b of colour levels, a divisor of 256.

    Returns:
        int64, shape of `y_uint8`, 0 to b - 1.

    Raises:
        ValueError: y is not of an integer type, or b does not divide 256.

    Source: Lucas & Verbeek (2017), section 3.2 and Eq. 8.
    """
    if y_uint8.is_floating_point() or y_uint8.dtype == torch.bool:
        raise ValueError(f"y_uint8 has dtype {y_uint8.dtype}; accepted: an integer type")
    if levels < 1 or 256 % levels:
        raise ValueError(f"levels {levels} does not divide 256; accepted: 1, 2, 4, 8, 16, 32, 64, 128, 256")
    return torch.div(y_uint8.long(), 256 // levels, rounding_mode="floor")
