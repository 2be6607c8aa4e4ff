"""The user's own images: an array file or a folder of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agave.config import Prepare
from agave.data.arrays import ImageArray, read_array
from agave.data.image_files import open_image, resize_square
from agave.data.interface import Images, split_counts
from agave.data.listing import list_images
from agave.errors import UserError
from agave.files import sha256


def images_from_path(params: Prepare) -> Images:
    """Return the images of an array file or of a folder; the test images follow the training images.

    Args:
        params: `path` is an .npz or .npy file with uint8 (N, image_size, image_size, 3), or a folder whose image files are read
            in the order of their names.

    Raises:
        UserError: the path is not given, or the images are missing, damaged, of another type or size, or too few.
    """
    if params.path is None:
        raise UserError("prepare.path is not set; accepted for the source images: an .npz or .npy file or a folder of image files")
    path = Path(params.path)
    left_out: list[dict[str, str]] | None = None
    if _is_folder(path):
        paths, left_out = list_images(path)
        train, test = split_counts(params, len(paths), str(path))
        paths = paths[: train + test]
        array = np.stack([_read_image(file, params.image_size, left_out) for file in paths])
        order = "sorted by name"
    else:
        array = read_array(path, "accepted: an .npz or .npy file, or a folder of image files")
        _check_array(path, array, params.image_size)
        train, test = split_counts(params, len(array), str(path))
        paths, order = [path], "in the order of the file"
    name = path.resolve().name
    return Images(
        array[:train],
        array[train : train + test],
        source="images",
        train_name=f"images train ({train} of {name})",
        test_name=f"images test ({test} of {name})",
        split=f"Images 1-{train} train, images {train + 1}-{train + test} are held out, {order}.",
        licence="The images were given by the user; their licence is not known here.",
        files=[{"name": file.name, "sha256": sha256(file)} for file in paths],
        left_out=left_out,
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); accepted: an .npz or .npy file, or a folder of image files") from None


def _read_image(path: Path, image_size: int, left_out: list[dict[str, str]]) -> ImageArray:
    """Read an image file, its largest centred square shrunk to the size of x; add what of it is left out to the list."""
    image, parts = open_image(path)
    left_out += parts
    width, height = image.size
    side = min(width, height)
    if side < image_size:
        raise UserError(f"{path}: {width} x {height} pixels; accepted: at least prepare.image_size, {image_size} x {image_size}")
    return resize_square(image, (width - side) // 2, (height - side) // 2, side, image_size)


def _check_array(path: Path, array: NDArray[Any], image_size: int) -> None:
    accepted = f"accepted: uint8 (N, {image_size}, {image_size}, 3) with at least two images (prepare.image_size is {image_size})"
    if array.dtype != np.uint8:
        raise UserError(f"{path}: values of type {array.dtype}; {accepted}")
    if array.shape[1:] != (image_size, image_size, 3):
        raise UserError(f"{path}: shape {array.shape}; {accepted}")
    if len(array) == 0:
        raise UserError(f"{path}: no images; {accepted}")
