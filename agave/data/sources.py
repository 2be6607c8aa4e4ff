"""Images from three sources behind one interface: verified, split, stored as uint8 arrays with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agave.config import Prepare
from agave.data import photographs
from agave.data.arrays import ImageArray, digest, read_array
from agave.errors import UserError
from agave.files import atomic_write, sha256

IMAGE_ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
CIFAR10_FOLDER = "data"


@dataclass(frozen=True)
class Images:
    """What a source gives: two uint8 arrays (N, H, W, 3) and what the manifest says about them."""

    train: ImageArray
    test: ImageArray
    source: str
    train_name: str
    test_name: str
    split: str
    licence: str
    files: list[dict[str, str]]
    official_split: bool = False


def prepare(params: Prepare, output: Path, images: Path | None = None) -> dict[str, Any]:
    """Get, verify and split the images; write train.npy, test.npy and manifest.json.

    All three files are complete before the first is put in place, and the manifest comes last: on any error the folder
    is as it was. The same parameters give the same bytes.

    Args:
        params: the block `prepare` of the parameters.
        output: the folder to write to; made if missing.
        images: array file or folder; takes the place of `params.source` and `params.path`.

    Returns:
        The manifest: source, name, image_size, train and test (number of images, SHA-256 of the array's bytes in C
        order), split, licence, duplicates_across_splits, files.

    Raises:
        UserError: images are missing, damaged, of the wrong shape or type, too few, or in both splits; or the disk is full.
    """
    if images is not None:
        found = _from_path(params, images)
    elif params.source == "images":
        if params.path is None:
            raise UserError("prepare.path is not set; accepted for the source images: an .npz or .npy file or a folder of image files")
        found = _from_path(params, Path(params.path))
    else:
        found = _cifar10(params) if params.source == "cifar10" else _photos(params)
    train, test = np.ascontiguousarray(found.train), np.ascontiguousarray(found.test)
    manifest = {
        "source": found.source,
        "name": {"train": found.train_name, "test": found.test_name},
        "image_size": params.image_size,
        "train": {"images": len(train), "sha256": digest(train)},
        "test": {"images": len(test), "sha256": digest(test)},
        "split": found.split,
        "licence": found.licence,
        "duplicates_across_splits": _count_duplicates(train, test, allowed=found.official_split),
        "files": found.files,
    }
    # The last one opened is the first one in place, so the manifest is the last.
    with (
        atomic_write(output / "manifest.json") as manifest_path,
        atomic_write(output / "test.npy") as test_path,
        atomic_write(output / "train.npy") as train_path,
    ):
        _save(train_path, train)
        _save(test_path, test)
        manifest_path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _photos(params: Prepare) -> Images:
    train, test = (photographs.crops(params.photos, split, params.image_size, params.seed) for split in ("train", "test"))
    files = photographs.records()
    return Images(
        train,
        test,
        source="photos",
        train_name=f"photos train ({len(train)} crops)",
        test_name=f"photos test ({len(test)} crops)",
        split="Random crops of several scales; training and held-out crops come from different photographs.",
        licence="; ".join(f"{file['name']}: {file['licence']}" for file in files) + ".",
        files=files,
    )


def _from_path(params: Prepare, path: Path) -> Images:
    """An array file or a folder of image files; the test images follow the training images."""
    if path.is_dir():
        paths = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_ENDINGS and not file.name.startswith("."))
        if not paths:
            raise UserError(f"{path}: a folder without images; accepted: files ending in {' '.join(sorted(IMAGE_ENDINGS))}")
        train, test = _counts(params, len(paths), str(path))
        paths = paths[: train + test]
        array = np.stack([_read_image(file, params.image_size) for file in paths])
        order = "sorted by name"
    else:
        array = read_array(path, "accepted: an .npz or .npy file, or a folder of image files")
        _check_array(path, array, params.image_size)
        train, test = _counts(params, len(array), str(path))
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
    )


def _cifar10(params: Prepare) -> Images:
    if params.image_size != 32:
        raise UserError(f"prepare.image_size {params.image_size}: the images of CIFAR-10 have 32 x 32 pixels; accepted: 32")
    train, test, files = _official_cifar10(params.path)
    train_name, test_name = "CIFAR-10 train", "CIFAR-10 test"
    if params.test_from_train:
        first, held_out = _counts(params, len(train), train_name)
        train, test = train[:first], train[first : first + held_out]
        train_name += f" (first {first})"
        test_name = f"CIFAR-10 train images {first + 1}-{first + held_out}"
        split = f"Training images 1-{first} train, training images {first + 1}-{first + held_out} are held out; the test split is not used."
    else:
        if params.train_images is not None and params.train_images != len(train):
            train = _first(train, params.train_images, "prepare.train_images", train_name)
            train_name += f" (first {len(train)})"
        if params.test_images is not None and params.test_images != len(test):
            test = _first(test, params.test_images, "prepare.test_images", test_name)
            test_name += f" (first {len(test)})"
        split = f"The official split: training images 1-{len(train)} and test images 1-{len(test)}, in their original order."
    return Images(
        train,
        test,
        source="cifar10",
        train_name=train_name,
        test_name=test_name,
        split=split,
        licence="CIFAR-10 states no licence; to be cited as Krizhevsky, Learning multiple layers of features from tiny images, 2009.",
        files=files,
        official_split=not params.test_from_train,
    )


def _official_cifar10(path: str | None) -> tuple[ImageArray, ImageArray, list[dict[str, str]]]:
    """All training and test images of CIFAR-10.

    They come from the unpacked batches in the folder if these are whole, else from the archive in the folder, else from
    a download. The archive is unpacked into a temporary folder that is removed after reading.
    torchvision unpickles a batch only after its MD5 sum is verified.

    Returns:
        Training and test images, uint8 (N, 32, 32, 3), and the name and SHA-256 of each batch.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, extract_archive

    folder = Path(path or CIFAR10_FOLDER)
    if path is not None and not folder.is_dir():
        raise UserError(f"prepare.path {path}: no such folder; accepted: a folder with {CIFAR10.filename}, or null for {CIFAR10_FOLDER}/")
    batches = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    contents = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
    with tempfile.TemporaryDirectory() as unpacked:
        if not all(check_integrity(folder / CIFAR10.base_folder / name, md5) for name, md5 in contents):
            archive = folder / CIFAR10.filename
            if not archive.exists():
                _download_cifar10(archive)
            if not check_integrity(archive, CIFAR10.tgz_md5):
                raise UserError(
                    f"{archive}: damaged or incomplete, its MD5 sum is not {CIFAR10.tgz_md5}; "
                    "delete it to have it downloaded again, or put the right file in its place"
                )
            try:
                extract_archive(archive, unpacked)
            except OSError as error:
                raise UserError(
                    f"{archive}: not unpacked into {unpacked} ({error}); accepted: 200 MB of free space there (TMPDIR)"
                ) from error
            folder = Path(unpacked)
        try:
            train, test = (np.asarray(CIFAR10(folder, train=train).data, np.uint8) for train in (True, False))
        except RuntimeError as error:
            raise UserError(f"{CIFAR10.filename}: a batch in it is missing or has another MD5 sum than it should ({error})") from error
        files = [{"name": name, "sha256": sha256(folder / CIFAR10.base_folder / name)} for name in batches]
    return train, test, files


def _download_cifar10(archive: Path) -> None:
    """Download the archive with a progress bar; it appears under its name only when whole."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".download-") as folder:
            download_url(CIFAR10.url, folder, archive.name, CIFAR10.tgz_md5)
            os.replace(Path(folder) / archive.name, archive)
    except (OSError, HTTPException, RuntimeError) as error:
        raise UserError(
            f"{archive}: not there, and the download from {CIFAR10.url} failed ({error}); "
            f"get {archive.name} (MD5 {CIFAR10.tgz_md5}) on a machine with a network and put it into {archive.parent}/"
        ) from error


def _counts(params: Prepare, total: int, name: str) -> tuple[int, int]:
    """How many images train and how many are held out; `test_images` null: a sixth; `train_images` null: all the others."""
    test = params.test_images or max(1, total // 6)
    train = params.train_images or total - test
    if train < 1 or train + test > total:
        raise UserError(
            f"{name}: {total} images, not enough for prepare.train_images {params.train_images} and prepare.test_images "
            f"{params.test_images}; accepted: together at most {total}, and at least one of each"
        )
    return train, test


def _first(images: ImageArray, count: int, key: str, name: str) -> ImageArray:
    if count > len(images):
        raise UserError(f"{key} {count}: {name} has {len(images)} images; accepted: at most {len(images)}, or null for all")
    return images[:count]


def _read_image(path: Path, image_size: int) -> ImageArray:
    """An image file, its largest centred square shrunk to the size of x."""
    image = photographs.open_image(path)
    width, height = image.size
    side = min(width, height)
    if side < image_size:
        raise UserError(f"{path}: {width} x {height} pixels; accepted: at least prepare.image_size, {image_size} x {image_size}")
    return photographs.resize_square(image, (width - side) // 2, (height - side) // 2, side, image_size)


def _check_array(path: Path, array: NDArray[Any], image_size: int) -> None:
    accepted = f"accepted: uint8 (N, {image_size}, {image_size}, 3) with at least two images (prepare.image_size is {image_size})"
    if array.dtype != np.uint8:
        raise UserError(f"{path}: values of type {array.dtype}; {accepted}")
    if array.shape[1:] != (image_size, image_size, 3):
        raise UserError(f"{path}: shape {array.shape}; {accepted}")
    if len(array) == 0:
        raise UserError(f"{path}: no images; {accepted}")


def _count_duplicates(train: ImageArray, test: ImageArray, allowed: bool) -> int:
    """How many test images are, byte for byte, training images as well."""
    places = {hashlib.sha256(image).digest(): place for place, image in enumerate(train)}
    pairs = [(place, places[digest]) for place, image in enumerate(test) if (digest := hashlib.sha256(image).digest()) in places]
    # PAPER: exact duplicates across the official split of CIFAR-10 stay, because the split defines the benchmark; the manifest counts them.
    if pairs and not allowed:
        raise UserError(
            f"{len(pairs)} of {len(test)} test images are also training images, the first: test image {pairs[0][0] + 1} is training "
            f"image {pairs[0][1] + 1}; accepted: splits without a common image"
        )
    return len(pairs)


def _save(path: Path, array: ImageArray) -> None:
    """Write an .npy file; np.save would report a full disk without the error number that atomic_write looks for."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
