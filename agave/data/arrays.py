"""Read and write image arrays, and verify them when they are read."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agave.errors import UserError
from agave.files import atomic_write

# Errors that np.load raises for a damaged file, header or zip container.
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

ImageArray = NDArray[np.uint8]


def load_images(folder: str | Path, split: Literal["train", "test"]) -> ImageArray:
    """Read the images of one split, verified against the manifest.

    Args:
        folder: the output folder of `prepare`.
        split: "train" or "test".

    Returns:
        uint8 (N, image_size, image_size, 3), RGB.

    Raises:
        UserError: a file is missing, truncated or changed.
    """
    folder = Path(folder)
    manifest_path, array_path = folder / "manifest.json", folder / f"{split}.npy"
    remedy = "run `agave prepare` to make it again"
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        count, size, expected = manifest[split]["images"], manifest["image_size"], manifest[split]["sha256"]
    except FileNotFoundError as error:
        raise UserError(f"{manifest_path}: not there; run `agave prepare` first") from error
    except PermissionError as error:
        raise UserError(f"{manifest_path}: cannot be read ({error.strerror})") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest_path}: not a manifest of `agave prepare` ({error!r}); {remedy}") from error
    array = read_array(array_path, remedy)
    if array.dtype != np.uint8 or array.shape != (count, size, size, 3):
        raise UserError(f"{array_path}: {array.dtype} {array.shape} instead of uint8 {(count, size, size, 3)}; {remedy}")
    if (found := array_sha256(array)) != expected:
        raise UserError(f"{array_path}: SHA-256 {found} instead of {expected} as the manifest says; {remedy}")
    return array


def read_array(path: Path, remedy: str) -> NDArray[Any]:
    """Read the array of an .npy file, or of an .npz file the one called `images` or the only one. Nothing is unpickled.

    Args:
        path: path of the file.
        remedy: what to do, the end of the error message.

    Raises:
        UserError: the file is missing, unreadable or damaged, or holds several arrays and none of them is called `images`.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = content.files
            if "images" in names or len(names) == 1:
                return np.asarray(content["images" if "images" in names else names[0]])
    except FileNotFoundError as error:
        raise UserError(f"{path}: not there; {remedy}") from error
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except DAMAGE as error:
        raise UserError(f"{path}: not a complete NumPy file ({error}); {remedy}") from error
    raise UserError(f"{path}: arrays {names}; accepted: one called images, or a single array")


def read_array_file(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz file by name. Nothing is unpickled.

    Raises:
        UserError: the file is missing, damaged or no .npz file.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (*DAMAGE, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a complete .npz file ({error})") from error


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as one .npz file, completely or not at all. The same content gives the same bytes.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file. np.save would report a full disk without the error number that `atomic_write` looks for."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def array_sha256(array: NDArray[Any]) -> str:
    """Return the SHA-256, hexadecimal, of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
