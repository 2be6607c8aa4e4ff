"""Place blocks of images on a page so that an image pixel is a whole number of PNG pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.util import montage

from agave.figures.style import GREY, SMALL, TEXT, WIDTH, text_width, wrap

SIDE = 0.48  # inches: aimed at for one image
LEAST_WIDTH = 3.3  # inches: a column of text
MARGIN, SPACE, BETWEEN, ROW_GAP, TITLE, LINE = 0.06, 0.06, 0.14, 0.09, 0.22, 0.14  # inches


@dataclass(frozen=True)
class ImageBlock:
    """Images in rows and columns that stand together.

    Attributes:
        images: uint8 (rows, columns, H, W, 3).
        row_labels: labels to the left of the rows; empty: none.
        label: label of the block, to the left of the row labels.
        title: text above the images.
    """

    images: NDArray[np.uint8]
    row_labels: tuple[str, ...] = ()
    label: str = ""
    title: str = ""


def mosaic(images: NDArray[np.uint8], gap: int) -> NDArray[np.uint8]:
    """Join all images into one picture, with white gaps of `gap` pixels between them.

    Args:
        images: uint8 (rows, columns, H, W, 3).
        gap: pixels.

    Returns:
        uint8 (rows H + (rows - 1) gap, columns W + (columns - 1) gap, 3).
    """
    rows, columns = images.shape[:2]
    flat = images.reshape(rows * columns, *images.shape[2:])  # (rows, columns, H, W, 3) -> (N, H, W, 3)
    joined = montage(flat, fill=[255] * 3, padding_width=gap, grid_shape=(rows, columns), channel_axis=-1)
    picture: NDArray[np.uint8] = joined[gap:-gap, gap:-gap]  # without the frame that montage adds
    return picture


def compose(page: Sequence[Sequence[ImageBlock]], footnote: str, dpi: int) -> Figure:
    """Place rows of blocks on a page, with a footnote below.

    Args:
        page: rows of blocks; blocks of one column are aligned.
        footnote: wrapped to the width of the page.
        dpi: dots per inch of the PNG; limits how large an image pixel can be.
    """
    blocks = [block for row in page for block in row]
    size = blocks[0].images.shape[2]
    zoom = max(1, round(SIDE * dpi / size))  # PNG pixels per image pixel
    while zoom > 1 and _widths(page, zoom / dpi)[1] > WIDTH:
        zoom -= 1
    while _widths(page, (zoom + 1) / dpi)[1] <= LEAST_WIDTH:
        zoom += 1
    columns, total = _widths(page, zoom / dpi)
    indent = max(_label_width(block) for block in blocks)
    width = max(total, LEAST_WIDTH)
    notes = wrap(footnote, width - 2 * MARGIN, SMALL)
    heights = [max(_picture_size(block, zoom / dpi)[0] + (TITLE if block.title else 0) for block in row) for row in page]
    height = 2 * MARGIN + sum(heights) + ROW_GAP * len(page) + LINE * len(notes)

    sheet = Sheet(width, height, dpi)
    y = MARGIN
    for row, row_height in zip(page, heights, strict=True):
        x = MARGIN + indent
        for block, column in zip(row, columns, strict=False):
            _place(sheet, block, x, y + (TITLE if block.title else 0), zoom)
            x += column + BETWEEN + indent
        y += row_height + ROW_GAP
    for index, note in enumerate(notes):
        sheet.text(MARGIN, y + index * LINE, note, size=SMALL, color=GREY, va="top")
    return sheet.figure


class Sheet:
    """A figure addressed in inches from its upper left corner, rounded to PNG pixels.

    Args:
        width: inches.
        height: inches.
        dpi: dots per inch of the PNG.
    """

    def __init__(self, width: float, height: float, dpi: int) -> None:
        self.dpi, self.width, self.height = dpi, round(width * dpi), round(height * dpi)  # pixels
        self.figure = Figure(figsize=(self.width / dpi, self.height / dpi), dpi=dpi)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write a line of text at (x, y), inches."""
        self.figure.text(x * self.dpi / self.width, 1 - y * self.dpi / self.height, text, **style)

    def picture(self, x: float, y: float, pixels: NDArray[np.uint8]) -> None:
        """Put a picture, uint8 (height, width, 3), with its upper left corner at (x, y), inches. Each array entry is one PNG pixel."""
        left, top = round(x * self.dpi), self.height - round(y * self.dpi)
        box = (left / self.width, (top - pixels.shape[0]) / self.height, pixels.shape[1] / self.width, pixels.shape[0] / self.height)
        axes = self.figure.add_axes(box)
        axes.imshow(pixels, interpolation="none", aspect="auto")
        axes.set_axis_off()


def _place(sheet: Sheet, block: ImageBlock, x: float, y: float, zoom: int) -> None:
    """Put a block with the upper left corner of its images at (x, y), its labels to the left, its title above."""
    size = block.images.shape[2]
    picture = mosaic(block.images, _gap(size)).repeat(zoom, axis=0).repeat(zoom, axis=1)
    sheet.picture(x, y, picture)
    if block.title:
        sheet.text(x, y - SPACE, block.title, va="bottom")
    for index, label in enumerate(block.row_labels):
        middle = (index * (size + _gap(size)) + size / 2) * zoom / sheet.dpi
        sheet.text(x - SPACE, y + middle, label, va="center", ha="right", color=GREY)
    left = x - _rows_width(block) - SPACE
    sheet.text(left, y + picture.shape[0] / 2 / sheet.dpi, block.label, va="center", ha="right")


def _gap(size: int) -> int:
    return max(1, size // 16)


def _picture_size(block: ImageBlock, scale: float) -> tuple[float, float]:
    """Return height and width of the images of a block, inches; `scale` is inches per image pixel."""
    rows, columns, size = block.images.shape[:3]
    return (rows * (size + _gap(size)) - _gap(size)) * scale, (columns * (size + _gap(size)) - _gap(size)) * scale


def _rows_width(block: ImageBlock) -> float:
    return max((text_width(label, TEXT) + SPACE for label in block.row_labels), default=0.0)


def _label_width(block: ImageBlock) -> float:
    return _rows_width(block) + (text_width(block.label, TEXT) + 2 * SPACE if block.label else 0.0)


def _widths(page: Sequence[Sequence[ImageBlock]], scale: float) -> tuple[list[float], float]:
    """Return the width of each column of blocks without labels, and of the whole page, inches."""
    indent = max(_label_width(block) for row in page for block in row)
    columns = [0.0] * max(map(len, page))
    for row in page:
        for index, block in enumerate(row):
            columns[index] = max(columns[index], _picture_size(block, scale)[1], text_width(block.title, TEXT))
    return columns, 2 * MARGIN + sum(indent + column for column in columns) + BETWEEN * (len(columns) - 1)
