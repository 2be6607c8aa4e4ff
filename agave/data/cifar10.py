"""CIFAR-10: find the files, download them if needed, verify and split the images."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import numpy as np

from agave.config import Prepare
from agave.data.arrays import ImageArray
from agave.data.interface import Images, split_counts
from agave.errors import UserError
from agave.files import sha256

DEFAULT_FOLDER = Path("data")


def cifar10_images(params: Prepare) -> Images:
    """Return the images of CIFAR-10 with the official split, or with test images taken from the training images.

    Args:
        params: `path` is a folder with the archive or the unpacked batches (None: data/); `test_from_train`, `train_images`
            and `test_images` say which images.

    Raises:
        UserError: the files are missing and cannot be downloaded, or damaged; or there are fewer images than asked for.
    """
    if params.image_size != 32:
        raise UserError(f"prepare.image_size {params.image_size}: the images of CIFAR-10 have 32 x 32 pixels; accepted: 32")
    with _batches_folder(params.path) as folder:
        train, test, files = _read_batches(folder)
    train_name, test_name = "CIFAR-10 train", "CIFAR-10 test"
    if params.test_from_train:
        first, held_out = split_counts(params, len(train), train_name)
        train, test = train[:first], train[first : first + held_out]
        train_name += f" (first {first})"
        test_name = f"CIFAR-10 train images {first + 1}-{first + held_out}"
        split = f"Training images 1-{first} train, training images {first + 1}-{first + held_out} are held out; the test split is not used."
    else:
        train, train_name = _first(train, params.train_images, "prepare.train_images", train_name)
        test, test_name = _first(test, params.test_images, "prepare.test_images", test_name)
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


def _first(images: ImageArray, count: int | None, key: str, name: str) -> tuple[ImageArray, str]:
    """Return the first images and the name of the part."""
    if count is None or count == len(images):
        return images, name
    if count > len(images):
        raise UserError(f"{key} {count}: {name} has {len(images)} images; accepted: at most {len(images)}, or null for all")
    return images[:count], f"{name} (first {count})"


def _read_batches(folder: Path) -> tuple[ImageArray, ImageArray, list[dict[str, str]]]:
    """Read all training and test images. torchvision unpickles a batch only after its MD5 sum is verified.

    Args:
        folder: holds the folder of the unpacked batches.

    Returns:
        Training and test images, uint8 (N, 32, 32, 3), and the name and SHA-256 of each batch.
    """
    from torchvision.datasets import CIFAR10

    try:
        train, test = (np.asarray(CIFAR10(folder, train=train).data, np.uint8) for train in (True, False))
    except RuntimeError as error:
        raise UserError(f"{CIFAR10.filename}: a batch in it is missing or has a wrong MD5 sum ({error})") from error
    batches = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    return train, test, [{"name": name, "sha256": sha256(folder / CIFAR10.base_folder / name)} for name in batches]


@contextmanager
def _batches_folder(path: str | None) -> Iterator[Path]:
    """Give a folder that holds the unpacked batches in the subfolder that torchvision expects.

    The batches lie in that subfolder of the given folder, in the given folder itself, or in an archive there, which is unpacked
    into a temporary folder. The archive is downloaded only into the default folder or an empty one, never among other files.
    """
    from torchvision.datasets import CIFAR10

    folder = DEFAULT_FOLDER if path is None else Path(path)
    accepted = f"accepted: a folder with {CIFAR10.filename} or its unpacked batches, an empty one to download into, or null for data/"
    if path is not None and not folder.is_dir():
        raise UserError(f"prepare.path {path}: no such folder; {accepted}")
    if not _damaged(folder / CIFAR10.base_folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        archive = folder / CIFAR10.filename
        if not _damaged(folder):
            (Path(temporary) / CIFAR10.base_folder).symlink_to(folder.resolve())
        else:
            if not archive.exists():
                if path is not None and any(folder.iterdir()):
                    raise UserError(f"prepare.path {path}: {_missing(folder)}; nothing is downloaded among other files; {accepted}")
                _download_cifar10(archive)
            _unpack(archive, temporary)
        yield Path(temporary)


def _damaged(folder: Path) -> list[str]:
    """Name the files of the unpacked archive that are missing in a folder or have another MD5 sum than they should."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    contents = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
    return [name for name, md5 in contents if not check_integrity(folder / name, md5)]


def _missing(folder: Path) -> str:
    from torchvision.datasets import CIFAR10

    for place in (folder / CIFAR10.base_folder, folder):
        if any((place / name).exists() for name, _ in CIFAR10.train_list + CIFAR10.test_list):
            return f"{place / _damaged(place)[0]} is missing or damaged"
    return f"neither {CIFAR10.filename} nor its unpacked batches are there"


def _unpack(archive: Path, folder: str) -> None:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, extract_archive

    if not check_integrity(archive, CIFAR10.tgz_md5):
        raise UserError(
            f"{archive}: damaged or incomplete, its MD5 sum is not {CIFAR10.tgz_md5}; "
            "delete it to have it downloaded again, or put the right file in its place"
        )
    try:
        extract_archive(archive, folder)
    except OSError as error:
        raise UserError(f"{archive}: not unpacked into {folder} ({error}); accepted: 200 MB of free space there (TMPDIR)") from error


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
