"""Figures 1, 3, 5a, 6, the completions and the samples of all systems: grids of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from agave.figures import figure_cells
from agave.figures.mosaic import ImageBlock, compose
from agave.figures.style import save, style
from agave.published import NAMES
from agave.results import Results, shown_path

Images = NDArray[np.uint8]
Page = list[list[ImageBlock]]
Made = tuple[Page, str, dict[str, Images]]
"""The page of a figure, its footnote, and the images to keep beside it."""


def draw(name: str, source: Results) -> None:
    """Draw one of the figures 1a, 1b, 1c, 3a, 3b, 5a, 6, completions and samples.

    Raises:
        UserError: an input is missing or damaged.
    """
    makers: dict[str, Callable[[Results], Made]] = {
        "1a": _figure_1a,
        "1b": _figure_1b,
        "1c": _figure_1c,
        "3a": _figure_3a,
        "3b": _figure_3b,
        "5a": _figure_5a,
        "6": _figure_6,
        "completions": _completions,
        "samples": _samples,
    }
    with style():
        page, note, arrays = makers[name](source)
        note = f"{note} Data: {source.data_set()}. Preset {source.preset}, training seed {source.params.grid.seeds[0]}."
        save(compose(page, note, source.params.figures.dpi), name, source, arrays)


def grid_shape(images: int, limit: int) -> tuple[int, int]:
    """Return rows and columns of the largest grid without gaps, at most square and at most `limit` wide."""
    columns = max(range(1, limit + 1), key=lambda width: (width * min(images // width, width), -width))
    return max(1, min(images // columns, columns)), columns


def enlarge(images: Images, size: int) -> Images:
    """Repeat every pixel until images (N, r, r, 3) are (N, size, size, 3); r divides size."""
    factor = size // images.shape[1]
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def _figure_1a(source: Results) -> Made:
    # PAPER: The paper does not say whether Figure 1a shows mean images or draws from p(y|z). Ours are mean images f(z), as for the others.
    grids = _grids(source, "1a", ["prior"])
    note = f"The images are the means f(z), without pixel noise. {_not_selected(source)}"
    return [[ImageBlock(grids["prior"], title="IAF-VAE alone: f(z), z ~ p(z)")]], note, grids


def _figure_1b(source: Results) -> Made:
    grids = _grids(source, "1b", ["prior_sample"])
    return [[ImageBlock(grids["prior_sample"], title="PixelCNN++ alone: x ~ p(x)")]], _not_selected(source), grids


def _figure_1c(source: Results) -> Made:
    grids = _grids(source, "1c", ["prior", "prior_sample"])
    left = ImageBlock(grids["prior"], title="VAE decoder: f(z), z ~ p(z)")
    right = ImageBlock(grids["prior_sample"], title="PixelCNN decoder: x ~ p(x | f(z))")
    weight = figure_cells("1c", source.params)[0].kl_weight
    return [[left, right]], f"AGAVE at λ = {weight:g}; images in the same place have the same z. {_not_selected(source)}", grids


def _figure_3a(source: Results) -> Made:
    shown = _same_images(source, "3a", ["reconstruction", "reconstruction_sample"])
    note = f"{_same_noise(source)} VR: VAE reconstruction f(z), z ~ q(z|x). PS: PixelCNN sample given VR."
    return [[_row(shown["original"], "original")], *_rows_of_kl_weights(source, "3a", shown, ("VR", "PS"))], note, shown


def _figure_3b(source: Results) -> Made:
    shown = _first(source, "3b", ["prior", "prior_sample"])
    note = f"The noise is the same for all λ (seed {source.params.sample.seed}, not selected). "
    note += "VS: VAE sample f(z), z ~ p(z). PS: PixelCNN sample given VS."
    return _rows_of_kl_weights(source, "3b", shown, ("VS", "PS")), note, shown


def _figure_5a(source: Results) -> Made:
    shown = _same_images(source, "5a", ["reconstruction"])
    cells = figure_cells("5a", source.params)
    page = [[_row(shown["original"], "original")]]
    page += [[_row(shown[f"{cell.name}/reconstruction"], f"{cell.levels} levels")] for cell in cells]
    note = f"VAE reconstructions f(z), z ~ q(z|x), at λ = {cells[0].kl_weight:g}; levels: values that a colour channel of y can take."
    return page, f"{note} {_same_noise(source)}", shown


def _figure_6(source: Results) -> Made:
    shown = _first(source, "6", ["prior", "prior_sample"])
    panels = []
    for letter, cell in zip("abcdefghijklmnopqrstuvwxyz", figure_cells("6", source.params), strict=False):
        means, samples = (shown[f"{cell.name}/{key}"] for key in ("prior", "prior_sample"))
        title = f"({letter}) y: {cell.resolution}×{cell.resolution}, {cell.levels} levels; λ = {cell.kl_weight:g}"
        panels.append(ImageBlock(np.stack([enlarge(means, samples.shape[1]), samples]), ("VS", "PS"), title=title))
    note = f"VS: VAE sample f(z), its pixels enlarged to the size of x. PS: PixelCNN sample given VS. {_not_selected(source)}"
    return [panels[start : start + 2] for start in range(0, len(panels), 2)], note, shown


def _completions(source: Results) -> Made:
    cell, alone = figure_cells("completions", source.params)
    rows = source.params.sample.completion_rows
    shown = _same_images(source, "completions", ["completion"])
    shown["given"] = shown["original"].copy()
    shown["given"][:, rows:] = 255
    shown["f(z)"] = enlarge(source.images(cell, ["reconstruction"])["reconstruction"][: len(shown["original"])], shown["original"].shape[1])
    labels = {
        "original": "original",
        "given": "given",
        f"{alone.name}/completion": "PixelCNN++ alone",
        "f(z)": "f(z)",
        f"{cell.name}/completion": f"AGAVE, λ = {cell.kl_weight:g}",
    }
    note = f"The first {rows} rows of an image are given, the others are sampled. PixelCNN++ alone sees the given rows; AGAVE also sees "
    note += f"f(z), z ~ q(z|x) of the whole original. Temperature {source.params.sample.temperature:g}. {_not_selected(source)}"
    return [[ImageBlock(np.stack([shown[key] for key in labels]), tuple(labels.values()))]], note, shown


def _samples(source: Results) -> Made:
    columns = source.params.figures.columns
    shown: dict[str, Images] = {}
    for cell in figure_cells("samples", source.params):
        label = f"AGAVE, λ = {cell.kl_weight:g}" if cell.kind == "agave" else NAMES[cell.system]
        key = "prior_sample" if cell.models_x else "prior_draw"
        shown[label] = source.images(cell, [key])[key][:columns]
    shown["test images"] = source.images(cell, ["original"])["original"][:columns]
    note = f"Images drawn by each system, in the order of Table 1, and below them test images. {_not_selected(source)}"
    return [[ImageBlock(np.stack(list(shown.values())), tuple(shown))]], note, shown


def _not_selected(source: Results) -> str:
    return f"The samples are not selected: they are the first of noise seed {source.params.sample.seed}."


def _same_noise(source: Results) -> str:
    return f"All models are given the same test images and the same noise (seed {source.params.sample.seed})."


def _row(images: Images, label: str) -> ImageBlock:
    return ImageBlock(images[None], (label,))


def _rows_of_kl_weights(source: Results, name: str, shown: dict[str, Images], labels: tuple[str, str]) -> Page:
    page = []
    for cell in figure_cells(name, source.params):
        pair = [images for key, images in shown.items() if key.startswith(f"{cell.name}/")]
        page.append([ImageBlock(np.stack(pair), labels, label=f"λ = {cell.kl_weight:g}")])
    return page


def _grids(source: Results, name: str, keys: Sequence[str]) -> dict[str, Images]:
    """Return the images of the only cell of a figure, as {key: uint8 (rows, columns, H, W, 3)}."""
    grids = {}
    for key, images in source.images(figure_cells(name, source.params)[0], keys).items():
        rows, columns = grid_shape(len(images), source.params.figures.columns)
        grids[key] = images[: rows * columns].reshape(rows, columns, *images.shape[1:])  # (N, H, W, 3) -> (rows, columns, H, W, 3)
    return grids


def _first(source: Results, name: str, keys: Sequence[str]) -> dict[str, Images]:
    """Return the first images of every cell of a figure, one row each, as {cell/key: images}."""
    columns = source.params.figures.columns
    shown: dict[str, Images] = {}
    for cell in figure_cells(name, source.params):
        shown |= {f"{cell.name}/{key}": images[:columns] for key, images in source.images(cell, keys).items()}
    return shown


def _same_images(source: Results, name: str, keys: Sequence[str]) -> dict[str, Images]:
    """Return `_first` with the test images under "original", which must be the same for all cells."""
    cells = figure_cells(name, source.params)
    originals = [source.images(cell, ["original"])["original"][: source.params.figures.columns] for cell in cells]
    for cell, images in zip(cells, originals, strict=True):
        if not np.array_equal(images, originals[0]):
            raise source.wrong(shown_path(cell, source.params.grid.seeds[0]), f"shows other test images than the cell {cells[0].name}")
    return {"original": originals[0]} | _first(source, name, keys)
