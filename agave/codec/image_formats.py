"""How many bytes the lossless modes of common image formats take for the same images."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from agave.data.arrays import ImageArray
from agave.errors import UserError
from agave.runtime.progress import Progress

Coder = tuple[Callable[[ImageArray], Any], Callable[[Any], Any]]


def lossless_formats(others: bool) -> dict[str, Coder]:
    """Return the encoder and decoder of each format by name, all lossless and at their slowest setting.

    Args:
        others: whether to include those that need the packages imagecodecs and pyoxipng.

    Raises:
        UserError: these packages are not installed.
    """
    png = partial(_save, format="PNG", optimize=True)
    formats: dict[str, Coder] = {
        "PNG": (png, _open),
        "WebP": (partial(_save, format="WEBP", lossless=True, quality=100, method=6), _open),
    }
    if not others:
        return formats
    try:
        import imagecodecs as codecs
        import oxipng
    except ImportError as error:
        raise UserError(
            f"the package {error.name} is not installed; accepted: pip install 'agave[codecs]', or codec.others false in params.yaml"
        ) from None
    strip = oxipng.StripChunks.all()
    return formats | {
        "PNG, oxipng": (lambda image: oxipng.optimize_from_memory(png(image), level=6, strip=strip), _open),
        "JPEG-LS": (codecs.jpegls_encode, codecs.jpegls_decode),
        "AVIF": (partial(codecs.avif_encode, level=100, speed=0, numthreads=1), codecs.avif_decode),
        "JPEG XL": (partial(codecs.jpegxl_encode, lossless=True, effort=9, numthreads=1), codecs.jpegxl_decode),
    }


def format_sizes(images: ImageArray, others: bool, label: str) -> list[dict[str, Any]]:
    """Compress images with each format.

    Args:
        images: uint8 (N, H, W, 3).
        others: as in `lossless_formats`.
        label: name under which progress is shown.

    Returns:
        For each format its name and bits/dim: of one file an image, of the same without what a plain grey image takes, which is nearly
        all header, and of all images as one picture.

    Raises:
        UserError: the packages are not installed, or a format does not give the same pixels back.
    """
    formats, rows = lossless_formats(others), list[dict[str, Any]]()
    plain, picture = np.full_like(images[0], 128), _one_picture(images)
    with Progress(len(formats) * (len(images) + 2), label, "picture") as progress:
        for name, coder in formats.items():

            def size(image: ImageArray, name: str = name, coder: Coder = coder) -> int:
                data = coder[0](np.ascontiguousarray(image))
                if not np.array_equal(coder[1](data), image):
                    raise UserError(f"{name}: does not give the same pixels back; accepted: the package versions of uv.lock")
                progress.update(1, name)
                return len(data)

            each, header, together = sum(map(size, images)), size(plain), size(picture)
            rows.append({"format": name, "images": len(images), **_bits_per_dim(images.size, len(images), each, header, together)})
    return rows


def _save(image: ImageArray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return file.getvalue()


def _open(data: bytes) -> ImageArray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _bits_per_dim(values: int, count: int, each: int, header: int, together: int) -> Mapping[str, float]:
    return {
        "one_file_each_bits_per_dim": 8 * each / values,
        "without_header_bits_per_dim": 8 * (each - count * header) / values,
        "one_picture_bits_per_dim": 8 * together / values,
    }


def _one_picture(images: ImageArray) -> ImageArray:
    """Lay images (N, H, W, 3) out as one, in rows of equal length, as nearly square as their number allows."""
    count, height, width, _ = images.shape
    rows = max(one for one in range(1, math.isqrt(count) + 1) if count % one == 0)
    grid = images.reshape(rows, count // rows, height, width, 3).swapaxes(1, 2)
    return np.ascontiguousarray(grid.reshape(rows * height, count // rows * width, 3))
