"""The interface of the sources of images, and the checks that all of them share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from agave.config import Prepare
from agave.data.arrays import ImageArray
from agave.errors import UserError


@dataclass(frozen=True)
class Images:
    """The images of a source, split, and what the manifest says about them.

    Attributes:
        train: training images, uint8 (N, image_size, image_size, 3), RGB.
        test: held-out images, same type and size.
        source: name of the source in the registry.
        train_name: name of the training images for tables and captions.
        test_name: name of the test images.
        split: how the images were split, a sentence.
        licence: licence of the images, a sentence.
        files: name, SHA-256 and further facts of each file that was read.
        left_out: name and reason of each thing in a folder that was not used; None where a source has nothing to leave out.
        official_split: whether the split is that of a benchmark, which may hold duplicates.
    """

    train: ImageArray
    test: ImageArray
    source: str
    train_name: str
    test_name: str
    split: str
    licence: str
    files: list[dict[str, str]]
    left_out: list[dict[str, str]] | None = None
    official_split: bool = False


Source: TypeAlias = Callable[[Prepare], Images]


def split_counts(params: Prepare, total: int, name: str) -> tuple[int, int]:
    """Return how many images train and how many are held out.

    Args:
        params: `test_images` None holds out a sixth, at least one; `train_images` None takes all the others.
        total: number of images.
        name: name of the images, for the message.

    Raises:
        UserError: there are too few images.
    """
    test = params.test_images or max(1, total // 6)
    train = params.train_images or total - test
    if train < 1 or train + test > total:
        raise UserError(
            f"{name}: {total} images, not enough for prepare.train_images {params.train_images} and prepare.test_images "
            f"{params.test_images}; accepted: together at most {total}, and at least one of each"
        )
    return train, test


def count_duplicates(train: ImageArray, test: ImageArray, allowed: bool) -> int:
    """Count the test images that equal a training image byte for byte.

    Args:
        train: uint8 (N, height, width, 3), C order.
        test: same type and size.
        allowed: whether there may be some, because the split is that of a benchmark.

    Raises:
        UserError: there are some, and they are not allowed.
    """
    places = {hashlib.sha256(image).digest(): place for place, image in enumerate(train)}
    digests = [hashlib.sha256(image).digest() for image in test]
    pairs = [(place, places[digest]) for place, digest in enumerate(digests) if digest in places]
    # PAPER: Exact duplicates across the official split of CIFAR-10 stay, because the split defines the benchmark. The manifest counts them.
    if pairs and not allowed:
        raise UserError(
            f"{len(pairs)} of {len(test)} test images are also training images, the first: test image {pairs[0][0] + 1} is training "
            f"image {pairs[0][1] + 1}; accepted: splits without a common image"
        )
    return len(pairs)
