"""Read the images that are compressed, and write those that are decompressed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agave.codec.image_formats import lossless_formats
from agave.data.arrays import ImageArray, read_array, write_npy, write_npz
from agave.data.image_files import read_exactly
from agave.errors import UserError
from agave.files import atomic_write

ARRAYS = (".npz", ".npy")


def read_pictures(paths: Sequence[Path]) -> ImageArray:
    """Read image files of one size, or an array file.

    Args:
        paths: image files; or a single .npz or .npy file that holds uint8 (N, H, W, 3).

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        UserError: a file is missing, damaged or cannot be given back exactly, or the sizes differ.
    """
    arrays = [path for path in paths if path.suffix.lower() in ARRAYS]
    if arrays and len(paths) > 1:
        raise UserError(f"{arrays[0]}: one of {len(paths)} files; accepted: a single array file, or image files alone")
    if arrays:
        found = read_array(paths[0], "accepted: an .npz or .npy file, or image files")
        if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != 3 or 0 in found.shape:
            raise UserError(f"{paths[0]}: {found.dtype} {found.shape}; accepted: uint8 (N, height, width, 3) with at least one image")
        return np.ascontiguousarray(found)
    images = [read_exactly(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            sizes = [f"{one.shape[1]} x {one.shape[0]}" for one in (image, images[0])]
            raise UserError(f"{path}: {sizes[0]} pixels, but {paths[0]} has {sizes[1]}; accepted: images of one size in a file")
    return np.stack(images)


def check_output(output: Path) -> None:
    """Refuse a path that does not say what to write, before the work begins.

    Raises:
        UserError: its ending is that of another format.
    """
    if output.suffix.lower() not in ("", ".png", *ARRAYS) and not output.is_dir():
        raise UserError(f"{output}: not a lossless output; accepted: a file .png, .npz or .npy, or a folder for several PNG files")


def write_pictures(output: Path, images: ImageArray) -> None:
    """Write images as an array file, as a PNG file, or as numbered PNG files in a folder, each whole or not at all.

    Args:
        output: a file .npz, .npy or .png, or a folder.
        images: uint8 (N, H, W, 3).

    Raises:
        UserError: there are several images for one PNG file, or the disk is full or may not be written to.
    """
    suffix = output.suffix.lower()
    if suffix == ".npz":
        write_npz(output, {"images": images})
    elif suffix == ".npy":
        with atomic_write(output) as temporary:
            write_npy(temporary, images)
    elif suffix == ".png" and not output.is_dir():
        if len(images) > 1:
            raise UserError(f"{output}: the file holds {len(images)} images; accepted: a folder, or a file .npz or .npy")
        _write_png(output, images[0])
    else:
        for index, image in enumerate(images):
            _write_png(output / f"{index:0{len(str(len(images) - 1))}}.png", image)


def png_bytes(images: ImageArray) -> int:
    """Return the size of images as PNG files, one each, made by Pillow with its best settings."""
    return sum(len(_png(image)) for image in images)


def _write_png(path: Path, image: ImageArray) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(_png(image))


def _png(image: ImageArray) -> bytes:
    encode, _ = lossless_formats(others=False)["PNG"]
    return bytes(encode(image))
