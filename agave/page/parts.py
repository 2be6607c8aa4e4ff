"""The parts that a section of the page is built from: pictures, figures and tables as the template shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agave import figures
from agave.data.arrays import read_array_file
from agave.errors import UserError
from agave.results import Results

Images = NDArray[np.uint8]
GAP = 1  # transparent pixels between images
PER_INCH = 120


@dataclass(frozen=True)
class Picture:
    """A picture in the page.

    Attributes:
        png: its bytes.
        alt: what it shows, in words.
        label: a short text above it.
        pixels: whether its pixels are those of images of the data, to be shown as squares.
    """

    png: bytes
    alt: str
    label: str = ""
    pixels: bool = True

    @property
    def uri(self) -> str:
        """Return the picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @cached_property
    def size(self) -> tuple[int, int]:
        """Return width and height: in its own pixels, of a chart in those of the page, `PER_INCH` of which make an inch of the drawing."""
        with Image.open(io.BytesIO(self.png)) as image:
            scale = 1 if self.pixels else PER_INCH / image.info["dpi"][0]
            return round(image.width * scale), round(image.height * scale)


@dataclass(frozen=True)
class Panel:
    """Pictures that belong together, such as those of one λ; `note` is a line of numbers."""

    pictures: Sequence[Picture]
    label: str = ""
    note: str = ""


@dataclass(frozen=True)
class Exhibit:
    """A figure.

    Attributes:
        title: for example "Figure 3".
        caption: sentence below it.
        groups: its pictures.
        names: the figures of `agave.figures.NAMES` whose files stand behind it.
        slider: what a slider over all groups changes; "" shows all groups at once.
        fixed: pictures that are the same for all groups.
    """

    title: str
    caption: str
    groups: Sequence[Panel]
    names: Sequence[str]
    slider: str = ""
    fixed: Sequence[Picture] = ()


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column heads the rows, those in `left` are aligned to the left. `folded` opens on demand."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: Sequence[str] = ()
    folded: bool = False


def chart(source: Results, name: str, title: str, caption: str, alt: str) -> Exhibit:
    """Return a figure as it was drawn.

    Raises:
        UserError: it is missing; the message names the command that makes it.
    """
    path = f"figures/figure{name}.png"
    try:
        picture = Picture((source.folder / path).read_bytes(), alt, pixels=False)
    except FileNotFoundError:
        raise source.wrong(path, "missing") from None
    return Exhibit(title, caption, [Panel([picture])], [name])


def arrays_of(source: Results, name: str) -> dict[str, Images]:
    """Read the images that a figure shows.

    Returns:
        {name of an array: uint8, (N, H, W, 3) or (rows, columns, H, W, 3)}.

    Raises:
        UserError: they are missing or damaged; the message names the command that makes them.
    """
    path = next(path for path in figures.outputs(name) if path.endswith(".npz"))
    try:
        arrays = read_array_file(source.folder / path)
    except UserError as error:
        problem = str(error).removeprefix(f"{source.folder / path}: ")
        raise source.wrong(path, problem if (source.folder / path).exists() else "missing") from None
    for key, images in arrays.items():
        if images.dtype != np.uint8 or images.ndim not in (4, 5) or images.shape[-1] != 3 or not images.size:
            raise source.wrong(path, f"{key} is {images.dtype} {images.shape}; accepted: uint8 images (N, H, W, 3)")
    return arrays


def tiles(images: Images, alt: str, label: str = "", size: int | None = None) -> Picture:
    """Return images side by side.

    Args:
        images: uint8 (N, H, W, 3), one row; or (rows, columns, H, W, 3).
        alt: what they show.
        label: a short text above them.
        size: height and width at which each is shown, a multiple of its own; None: its own.
    """
    grid = images if images.ndim == 5 else images[None]
    factor = (size or grid.shape[2]) // grid.shape[2]
    grid = grid.repeat(factor, axis=2).repeat(factor, axis=3)
    rows, columns, height, width, _ = grid.shape
    canvas = np.zeros((rows, height + GAP, columns, width + GAP, 4), np.uint8)
    canvas[:, :height, :, :width] = np.insert(grid, 3, 255, axis=-1).transpose(0, 2, 1, 3, 4)  # opaque
    joined = canvas.reshape(rows * (height + GAP), columns * (width + GAP), 4)[:-GAP, :-GAP]
    file = io.BytesIO()
    Image.fromarray(joined).save(file, "PNG", optimize=True)
    return Picture(file.getvalue(), alt, label)
