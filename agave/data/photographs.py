"""Crops of the photographs that ship inside scikit-image and scikit-learn: real images without a download."""

from __future__ import annotations

import importlib.util
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from agave.config import Photos
from agave.errors import UserError
from agave.files import sha256

# Levels of 0..255. A crop whose standard deviation over its pixels (mean of the three channels) is smaller shows empty sky or a blurred
# background, nothing that models of images could be compared on: about 1 crop in 15. The lowest of 3,000 CIFAR-10 images is 12.6.
MINIMUM_CONTRAST = 8.0

# What a file can hold without losing values on the way to 8-bit RGB.
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})


@dataclass(frozen=True)
class Photograph:
    """One embedded photograph, the split its crops belong to, and who made it under which licence."""

    package: Literal["skimage", "sklearn"]
    file: str
    split: Literal["train", "test"]
    licence: str

    @property
    def path(self) -> Path:
        """Where the installed package keeps the file; the package itself is not imported.

        Raises:
            UserError: the package or the file is missing.
        """
        spec = importlib.util.find_spec(self.package)
        folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
        for folder in folders:
            if (folder / self.file).is_file():
                return folder / self.file
        name = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[self.package]
        raise UserError(f"the photograph {self.file} of {name} is missing; accepted: an installation as uv.lock describes it (`uv sync`)")


# Ordinary colour photographs with a stated free licence. Left out: micrographs, a retina, drawings, a field of galaxies (another kind of
# image), and the two views of a motorcycle (one scene twice; no licence stated). A cat and a cup of coffee are held out: they have colours
# and textures like those of the other four, so a small PixelCNN++ trained on these codes them nearly as well as if it had seen them (0.3
# bits/dim more; the flower, alone in its blue-green, 1.2). Held-out likelihood then measures the model and not a change of domain.
PHOTOGRAPHS = (
    Photograph("skimage", "data/astronaut.png", "train", "NASA, public domain"),
    Photograph("skimage", "data/rocket.jpg", "train", "SpaceX, released into the public domain"),
    Photograph("sklearn", "datasets/images/china.jpg", "train", "danielbuechele (Flickr), CC BY 2.0, cropped and resized"),
    # The package's notes name danielbuechele and link to the page of vultilion.
    Photograph("sklearn", "datasets/images/flower.jpg", "train", "danielbuechele / vultilion (Flickr), CC BY 2.0, cropped and resized"),
    Photograph("skimage", "data/chelsea.png", "test", "Stefan van der Walt, CC0"),
    Photograph("skimage", "data/coffee.png", "test", "Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0"),
)


def crops(params: Photos, split: Literal["train", "test"], image_size: int, seed: int) -> NDArray[np.uint8]:
    """Random square crops of the photographs of one split, resized to one size.

    The photographs take turns, so every few consecutive crops show all of them. A crop's side is log-uniform between
    `smallest_crop` and `largest_crop` (at most the photograph's shorter side), its place uniform. The first n crops
    are the same whatever number is asked for.

    Args:
        params: number of crops and range of their sides, pixels of the photograph.
        split: "train" or "test"; they share no photograph.
        image_size: height and width of the result, pixels.
        seed: of sides and places.

    Returns:
        uint8 (N, image_size, image_size, 3), RGB.

    Raises:
        UserError: `smallest_crop` is smaller than `image_size`, or a photograph is missing or unreadable.
    """
    if params.smallest_crop < image_size:
        raise UserError(
            f"prepare.photos.smallest_crop {params.smallest_crop} is smaller than prepare.image_size {image_size}, crops would be "
            f"enlarged; accepted: at least {image_size}"
        )
    photographs = [open_image(photograph.path) for photograph in PHOTOGRAPHS if photograph.split == split]
    generator = np.random.default_rng([seed, ("train", "test").index(split)])
    count = params.train_crops if split == "train" else params.test_crops
    result = np.empty((count, image_size, image_size, 3), np.uint8)
    for index in range(count):
        result[index] = _random_crop(photographs[index % len(photographs)], params, image_size, generator)
    return result


def records() -> list[dict[str, str]]:
    """The photographs for the manifest: file, SHA-256, split, licence."""
    return [
        {"name": Path(photograph.file).name, "sha256": sha256(photograph.path), "split": photograph.split, "licence": photograph.licence}
        for photograph in PHOTOGRAPHS
    ]


def open_image(path: Path) -> Image.Image:
    """An image file as 8-bit RGB, turned upright as its EXIF entry says; transparency is dropped.

    Raises:
        UserError: the file cannot be read, is damaged, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in MODES:
                return ImageOps.exif_transpose(image).convert("RGB")
            problem = f"pixel format {image.mode}"
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        problem = str(error)
    raise UserError(f"{path}: not a readable image ({problem}); accepted: a whole image file with 8 bits per channel")


def resize_square(image: Image.Image, left: int, top: int, side: int, image_size: int) -> NDArray[np.uint8]:
    """Shrink a square part of an RGB image, with anti-aliasing.

    Pillow's Lanczos filter widens with the reduction, so that it removes what the coarser grid cannot show and keeps more
    detail than a box or a Gaussian; it calculates in fixed point: the same bytes on every machine, 0.3 ms a crop.

    Returns:
        uint8 (image_size, image_size, 3).
    """
    part = image.crop((left, top, left + side, top + side))  # resize(box=...) would let the surroundings leak in
    return np.asarray(part.resize((image_size, image_size), Image.Resampling.LANCZOS), np.uint8)


def _random_crop(photograph: Image.Image, params: Photos, image_size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    shorter = min(photograph.size)
    smallest, largest = (min(side, shorter) for side in (params.smallest_crop, params.largest_crop))
    while True:
        side = round(np.exp(generator.uniform(np.log(smallest), np.log(largest))))
        left, top = (int(generator.integers(0, length - side + 1)) for length in photograph.size)
        crop = resize_square(photograph, left, top, side, image_size)
        if crop.std(axis=(0, 1)).mean() >= MINIMUM_CONTRAST:
            return crop
