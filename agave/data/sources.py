"""The registry of sources: the values that `prepare.source` accepts, and the function that returns the images of each."""

from __future__ import annotations

from agave.data.cifar10 import cifar10_images
from agave.data.interface import Source
from agave.data.own_images import images_from_path
from agave.data.photographs import photograph_crops

SOURCES: dict[str, Source] = {
    "cifar10": cifar10_images,
    "images": images_from_path,
    "photos": photograph_crops,
}
