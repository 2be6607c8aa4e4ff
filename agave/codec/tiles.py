"""Cut images into square tiles of the size that a model codes, and join them again."""

from __future__ import annotations

import numpy as np

from agave.data.arrays import ImageArray


def cut(images: ImageArray, tile: int) -> ImageArray:
    """Cut images into tiles, row by row; the last row and column of an image are repeated to fill the last tiles.

    Args:
        images: (N, H, W, 3).
        tile: side of a tile, pixels.

    Returns:
        (N tiles, tile, tile, 3).
    """
    count, height, width, _ = images.shape
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(images, ((0, 0), (0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge")
    return padded.reshape(count, rows, tile, columns, tile, 3).swapaxes(2, 3).reshape(-1, tile, tile, 3)


def join(tiles: ImageArray, height: int, width: int) -> ImageArray:
    """Join the tiles of `cut` to images (N, height, width, 3)."""
    tile = tiles.shape[1]
    rows, columns = -(-height // tile), -(-width // tile)
    whole = tiles.reshape(-1, rows, columns, tile, tile, 3).swapaxes(2, 3).reshape(-1, rows * tile, columns * tile, 3)
    return np.ascontiguousarray(whole[:, :height, :width])
