"""Crops of the photographs that ship inside scikit-image and scikit-learn: real images without a download."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agave.config import Photos, Prepare
from agave.data.image_files import open_image, resize_square
from agave.data.interface import Images
from agave.errors import UserError
from agave.files import sha256

# Grey levels, 0 to 255. A crop whose standard deviation over its pixels (mean of the three channels) is smaller shows empty sky or a
# blurred background, on which models of images cannot be compared. This is about 1 crop in 15. The lowest of 3,000 CIFAR-10 images is 12.6.
MINIMUM_CONTRAST = 8.0

Split: TypeAlias = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")


@dataclass(frozen=True)
class Photograph:
    """An embedded photograph, the split that its crops belong to, its author and its licence."""

    package: Literal["skimage", "sklearn"]
    file: str
    split: Split
    licence: str

    @property
    def path(self) -> Path:
        """Return the path of the file in the installed package, which is not imported.

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


def photograph_crops(params: Prepare) -> Images:
    """Return crops of the embedded photographs. Training and held-out crops come from different photographs.

    Args:
        params: `photos` gives the number of crops and the range of their sides; `seed` seeds their places.

    Raises:
        UserError: as `crops`.
    """
    train, test = (crops(params.photos, split, params.image_size, params.seed) for split in SPLITS)
    files = [
        {"name": Path(photograph.file).name, "sha256": sha256(photograph.path), "split": photograph.split, "licence": photograph.licence}
        for photograph in PHOTOGRAPHS
    ]
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


def crops(params: Photos, split: Split, image_size: int, seed: int) -> NDArray[np.uint8]:
    """Cut random square crops from the photographs of one split, and resize them to one size.

    The photographs take turns. The side of a crop is log-uniform between `smallest_crop` and `largest_crop` (at most the shorter side
    of the photograph), and its place is uniform. The first n crops are the same whatever number is asked for.

    Args:
        params: number of crops and range of their sides, pixels of the photograph.
        split: "train" or "test"; they share no photograph.
        image_size: height and width of the result, pixels.
        seed: seed of sides and places.

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
    photographs = [open_image(photograph.path)[0] for photograph in PHOTOGRAPHS if photograph.split == split]
    generator = np.random.default_rng([seed, SPLITS.index(split)])
    count = params.train_crops if split == "train" else params.test_crops
    result = np.empty((count, image_size, image_size, 3), np.uint8)
    for index in range(count):
        result[index] = _random_crop(photographs[index % len(photographs)], params, image_size, generator)
    return result


def _random_crop(photograph: Image.Image, params: Photos, image_size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    shorter = min(photograph.size)
    smallest, largest = (min(side, shorter) for side in (params.smallest_crop, params.largest_crop))
    while True:
        side = round(np.exp(generator.uniform(np.log(smallest), np.log(largest))))
        left, top = (int(generator.integers(0, length - side + 1)) for length in photograph.size)
        crop = resize_square(photograph, left, top, side, image_size)
        if crop.std(axis=(0, 1)).mean() >= MINIMUM_CONTRAST:
            return crop
