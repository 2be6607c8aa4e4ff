"""Figures 1, 3, 5a, 6 and the completions: grids of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agave.figures import figure_cells
from agave.figures.mosaic import Block, compose
from agave.figures.style import save, style
from agave.grid import Cell
from agave.results import Results

Images = NDArray[np.uint8]


def draw(name: str, source: Results) -> None:
    """Draw one of the figures 1a, 1b, 1c, 3a, 3b, 5a, 6 and completions.

    Raises:
        UserError: an input is missing or damaged.
    """
    makers: dict[str, Callable[[Results], tuple[Figure, dict[str, Images]]]] = {
        "1a": _figure_1a,
        "1b": _figure_1b,
        "1c": _figure_1c,
        "3a": _figure_3a,
        "3b": _figure_3b,
        "5a": _figure_5a,
        "6": _figure_6,
        "completions": _completions,
    }
    with style():
        figure, arrays = makers[name](source)
        save(figure, name, source, arrays)


def grid_shape(images: int, limit: int) -> tuple[int, int]:
    """Rows and columns of the grid, at most square and `limit` wide, that shows most of the images without a gap."""
    columns = max(range(1, limit + 1), key=lambda width: (width * min(images // width, width), -width))
    return max(1, min(images // columns, columns)), columns


def _grid(images: Images, limit: int) -> Images:
    rows, columns = grid_shape(len(images), limit)
    return images[: rows * columns].reshape(rows, columns, *images.shape[1:])  # (N, H, W, 3) -> (rows, columns, H, W, 3)


def _footnote(source: Results, text: str) -> str:
    return f"{text} Data: {source.data_set()}. Preset {source.preset}, training seed {source.params.grid.seeds[0]}."


def _random(source: Results) -> str:
    return f"Samples are not selected: the first of noise seed {source.params.sample.seed}."


def _levels(cell: Cell) -> str:
    return f"{cell.levels} levels"


def _figure_1a(source: Results) -> tuple[Figure, dict[str, Images]]:
    # PAPER: whether Figure 1a shows mean images or draws from p(y|z) is not said; the mean f(z), as in the other VAE images.
    grid = _grid(source.images(figure_cells("1a", source.params)[0], ["prior"])["prior"], source.params.figures.columns)
    note = _footnote(source, f"Mean images f(z), no pixel noise. {_random(source)}")
    return _compose(source, [[Block(grid, title="IAF-VAE alone: f(z), z ~ p(z)")]], note), {"prior": grid}


def _figure_1b(source: Results) -> tuple[Figure, dict[str, Images]]:
    grid = _grid(source.images(figure_cells("1b", source.params)[0], ["prior_sample"])["prior_sample"], source.params.figures.columns)
    return _compose(source, [[Block(grid, title="PixelCNN++ alone: x ~ p(x)")]], _footnote(source, _random(source))), {"prior_sample": grid}


def _figure_1c(source: Results) -> tuple[Figure, dict[str, Images]]:
    cell = figure_cells("1c", source.params)[0]
    images = source.images(cell, ["prior", "prior_sample"])
    grids = {key: _grid(array, source.params.figures.columns) for key, array in images.items()}
    page = [
        [
            Block(grids["prior"], title="VAE decoder: f(z), z ~ p(z)"),
            Block(grids["prior_sample"], title="PixelCNN decoder: x ~ p(x | f(z))"),
        ]
    ]
    note = _footnote(source, f"AGAVE, λ = {cell.kl_weight:g}; same place, same z. {_random(source)}")
    return _compose(source, page, note), grids


def _figure_3a(source: Results) -> tuple[Figure, dict[str, Images]]:
    shown = _same_images(source, "3a", ["reconstruction", "reconstruction_sample"])
    note = f"Same test images{_same_noise(source)}. VR: VAE reconstruction f(z), z ~ q(z|x). PS: PixelCNN sample given VR."
    return _rows_of_kl_weights(source, "3a", shown, ("VR", "PS"), note), shown


def _figure_3b(source: Results) -> tuple[Figure, dict[str, Images]]:
    shown = _first(source, "3b", ["prior", "prior_sample"])
    note = f"Same noise for all λ (seed {source.params.sample.seed}, not selected). VS: VAE sample f(z), z ~ p(z). "
    note += "PS: PixelCNN sample given VS."
    return _rows_of_kl_weights(source, "3b", shown, ("VS", "PS"), note), shown


def _figure_5a(source: Results) -> tuple[Figure, dict[str, Images]]:
    shown = _same_images(source, "5a", ["reconstruction"])
    cells = figure_cells("5a", source.params)
    page = [[Block(shown["original"][None], ("original",))]]
    page += [[Block(shown[f"{cell.name}/reconstruction"][None], (_levels(cell),))] for cell in cells]
    note = f"VAE reconstructions f(z), z ~ q(z|x), λ = {cells[0].kl_weight:g}; levels: colours per channel of y. "
    return _compose(source, page, _footnote(source, f"{note}Same test images{_same_noise(source)}.")), shown


def _figure_6(source: Results) -> tuple[Figure, dict[str, Images]]:
    shown = _first(source, "6", ["prior", "prior_sample"])
    panels = []
    for letter, cell in zip("abcdefghijklmnopqrstuvwxyz", figure_cells("6", source.params), strict=False):
        pair = [shown[f"{cell.name}/{key}"] for key in ("prior", "prior_sample")]
        height = pair[1].shape[1]
        title = f"({letter}) y: {cell.resolution}×{cell.resolution}, {_levels(cell)}; λ = {cell.kl_weight:g}"
        panels.append(Block(np.stack([enlarge(pair[0], height), pair[1]]), ("VS", "PS"), title=title))
    note = f"VS: VAE sample f(z), pixels enlarged to the size of x. PS: PixelCNN sample given VS. {_random(source)}"
    return _compose(source, [panels[start : start + 2] for start in range(0, len(panels), 2)], _footnote(source, note)), shown


def _completions(source: Results) -> tuple[Figure, dict[str, Images]]:
    cell, alone = figure_cells("completions", source.params)
    rows = source.params.sample.completion_rows
    shown = _same_images(source, "completions", ["completion"])
    shown["given"] = shown["original"].copy()
    shown["given"][:, rows:] = 255
    shown["f(z)"] = enlarge(source.images(cell, ["reconstruction"])["reconstruction"][: len(shown["original"])], shown["original"].shape[1])
    labels = ["original", "given", "PixelCNN++ alone", "f(z)", f"AGAVE, λ = {cell.kl_weight:g}"]
    keys = ["original", "given", f"{alone.name}/completion", "f(z)", f"{cell.name}/completion"]
    note = f"The first {rows} rows are given, the others drawn pixel by pixel. PixelCNN++ alone knows what is given; AGAVE also f(z), "
    note += f"z ~ q(z|x) of the whole original. Temperature {source.params.sample.temperature:g}. {_random(source)}"
    page = [[Block(np.stack([shown[key] for key in keys]), tuple(labels))]]
    return _compose(source, page, _footnote(source, note)), shown


def enlarge(images: Images, size: int) -> Images:
    """Repeat every pixel until images (N, r, r, 3) are (N, size, size, 3); r divides size."""
    factor = size // images.shape[1]
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def _compose(source: Results, page: Sequence[Sequence[Block]], footnote: str) -> Figure:
    return compose(page, footnote, source.params.figures.dpi)


def _same_noise(source: Results) -> str:
    return f" and noise (seed {source.params.sample.seed})"


def _rows_of_kl_weights(source: Results, name: str, shown: dict[str, Images], labels: tuple[str, str], note: str) -> Figure:
    page = [[Block(shown["original"][None], ("original",))]] if "original" in shown else []
    for cell in figure_cells(name, source.params):
        pair = [images for key, images in shown.items() if key.startswith(f"{cell.name}/")]
        page.append([Block(np.stack(pair), labels, label=f"λ = {cell.kl_weight:g}")])
    return _compose(source, page, _footnote(source, note))


def _first(source: Results, name: str, keys: Sequence[str]) -> dict[str, Images]:
    """The first images of every cell of a figure, one row each, as {cell/key: images}."""
    columns = source.params.figures.columns
    shown: dict[str, Images] = {}
    for cell in figure_cells(name, source.params):
        shown |= {f"{cell.name}/{key}": images[:columns] for key, images in source.images(cell, keys).items()}
    return shown


def _same_images(source: Results, name: str, keys: Sequence[str]) -> dict[str, Images]:
    """As `_first`, with the test images under "original", which must be the same for all cells."""
    cells = figure_cells(name, source.params)
    originals = [source.images(cell, ["original"])["original"][: source.params.figures.columns] for cell in cells]
    for cell, images in zip(cells, originals, strict=True):
        if not np.array_equal(images, originals[0]):
            path = f"sample/{cell.name}/seed~{source.params.grid.seeds[0]}/samples.npz"
            raise source.wrong(path, f"shows other test images than the cell {cells[0].name}")
    return {"original": originals[0]} | _first(source, name, keys)
