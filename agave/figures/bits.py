"""Figure bits: where on the image the bits go, under PixelCNN++ alone and under AGAVE."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agave.figures import figure_cells
from agave.figures.mosaic import LINE
from agave.figures.style import GREY, SMALL, WIDTH, save, style, wrap
from agave.results import Results, per_image_path

Maps = NDArray[np.float32]
ROWS = ("test\nimages", "PixelCNN++\nalone", "AGAVE", "AGAVE less\nPixelCNN++")
LEFT, RIGHT, GAP, BELOW, BAR = 0.84, 0.72, 0.05, 0.17, 0.09  # inches: labels, colour bars, between maps, numbers, width of a bar


def draw(source: Results) -> None:
    """Draw test images, the bits of their pixels under both models, and the difference; beside them the mean over all test images.

    Raises:
        UserError: an input is missing or damaged.
    """
    cells = figure_cells("bits", source.params)
    keys, seed = ("bits_of_pixels", "bits_map"), source.params.grid.seeds[0]
    found = [source.arrays(per_image_path(cell, seed), keys) for cell in cells]
    images = source.images(cells[0], ["original"])["original"][: min(len(one["bits_of_pixels"]) for one in found)]
    maps = [np.stack([*one["bits_of_pixels"][: len(images)], one["bits_map"]]) for one in found]  # the last one: the mean
    data = {"original": images, "pixelcnn_pp": maps[0], "agave": maps[1]}
    with style():
        note = "Bits of each pixel, its three colours together: -log2 p of its value given the pixels before it. AGAVE at λ = "
        note += f"{cells[1].kl_weight:g} also sees f(z), z ~ q(z|x); the bits of z itself, the KL, have no place on the image and are not "
        note += "shown. Below each map: bits/dim. Blue: AGAVE needs fewer bits. The images are the first test images. "
        note += f"Data: {source.data_set()}. Preset {source.preset}, training seed {seed}."
        save(_figure(images, maps, note), "bits", source, data)


def _figure(images: NDArray[np.uint8], maps: list[Maps], note: str) -> Figure:
    columns = len(images) + 1
    side = (WIDTH - LEFT - RIGHT) / columns - GAP
    lines = wrap(note, WIDTH - 2 * GAP, SMALL)
    page = _Page(4 * (side + BELOW) + 2 * GAP + LINE * len(lines), side)
    most, apart = float(np.quantile(np.stack(maps), 0.995)), maps[1] - maps[0]
    limit = float(np.quantile(np.abs(apart[:-1]), 0.98))
    for column, image in enumerate(images):
        page.place(0, column).imshow(image, interpolation="none")
    page.place(0, columns - 1).text(0.5, 0.5, "mean of all\ntest images", ha="center", va="center", size=SMALL, color=GREY)
    for row, one in enumerate(maps, start=1):
        page.maps(row, one, ".2f", cmap="magma", vmin=0, vmax=most)
    page.bar(1, 2, extend="max")
    page.maps(3, apart, "+.2f", cmap="RdBu_r", vmin=-limit, vmax=limit)
    page.bar(3, 3, extend="both")
    for row, label in enumerate(ROWS):
        page.text(LEFT - 2 * GAP, page.top(row) + side / 2, label, ha="right", va="center")
    for number, line in enumerate(lines):
        page.text(GAP, page.top(4) + number * LINE, line, size=SMALL, color=GREY, va="top")
    return page.figure


class _Page:
    """Four rows of square pictures, placed in inches from the upper left corner.

    Args:
        height: height of the page, inches.
        side: side of a picture, inches.
    """

    def __init__(self, height: float, side: float) -> None:
        self.figure, self.height, self.side = Figure(figsize=(WIDTH, height)), height, side
        self.shown: Any = None

    def top(self, row: int) -> float:
        return GAP + row * (self.side + BELOW)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x / WIDTH, 1 - y / self.height, text, **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        return self.figure.add_axes((x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height))

    def place(self, row: int, column: int) -> Axes:
        axes = self.axes(LEFT + column * (self.side + GAP), self.top(row), self.side, self.side)
        axes.set_axis_off()
        return axes

    def maps(self, row: int, maps: Maps, form: str, **colours: Any) -> None:
        """Show maps (N, H, W) in a row, with bits/dim below each."""
        for column, one in enumerate(maps):
            self.shown = self.place(row, column).imshow(one, interpolation="none", **colours)
            middle = LEFT + column * (self.side + GAP) + self.side / 2
            bits_per_dim = round(float(one.mean()) / 3, 2) + 0.0  # never -0.00
            number = f"{bits_per_dim:{form}}".replace("-", "−")
            self.text(middle, self.top(row) + self.side + 0.02, number, size=SMALL, color=GREY, ha="center", va="top")

    def bar(self, first: int, last: int, extend: str) -> None:
        """Put the colour bar of the maps shown last beside the rows from `first` to `last`."""
        box = (WIDTH - RIGHT + GAP, self.top(first), BAR, self.top(last) + self.side - self.top(first))
        self.figure.colorbar(self.shown, cax=self.axes(*box), label="bits per pixel", extend=extend)
