"""Draw the figures of the paper from small csv and npz files alone, without any model and without torch.

`curves` has Figures 4 and 5b, the growth of the bound and the training curves, `table1` our numbers against the published ones, `codec`
compressed files, `images` the grids of images, `bits` where on the image the bits go, `schematic` Figure 2. `inputs` names the files that
a figure reads, `draw` draws it. Only `draw` loads the plotting libraries, so that planning a workflow stays fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agave import grid
from agave.config import Params
from agave.errors import UserError
from agave.grid import Cell
from agave.published import TABLE_1
from agave.results import BOUNDS, CODEC_TABLE, HISTORIES, ORDER, Results, growth_path, per_image_path, shown_path
from agave.results import TABLE_1 as TABLE_1_FILE

NAMES = ("1a", "1b", "1c", "2", "3a", "3b", "4", "5a", "5b", "6", "completions", "samples", "bits", "table1", "codec", "growth", "training")
IMAGE_FIGURES = ("1a", "1b", "1c", "3a", "3b", "5a", "6", "completions", "samples", "bits")


def figure_cells(name: str, params: Params) -> list[Cell]:
    """Return the cells that a figure shows, in the order in which it shows them."""
    vae, pixelcnn_pp = grid.baselines(params)
    if name in ("1a", "1b"):
        return [vae if name == "1a" else pixelcnn_pp]
    if name == "1c":
        return [grid.table_cells(params)[1]]
    if name in ("3a", "3b"):
        return grid.kl_weight_cells(params)
    if name == "4":
        return [*grid.kl_weight_cells(params), pixelcnn_pp]
    if name in ("5a", "5b"):
        return grid.levels_cells(params)
    if name == "completions":
        return [grid.table_cells(params)[1], pixelcnn_pp]
    if name == "bits":
        return grid.mapped_cells(params)
    if name == "growth":
        return grid.table_cells(params)
    if name == "codec":
        return grid.codec_cells(params)
    if name in ("samples", "table1"):
        cells = grid.table_1_cells(params)
        best = grid.table_cells(params)[1]
        order = [best if row.system == "agave" else cells.get(row.system) for row in TABLE_1]
        return [cell for cell in order if cell is not None and (name == "samples" or cell in cells.values())]
    if name == "6":
        # PAPER: The paper does not give lambda for Figure 6. Models (a) and (b) are those of Figure 5, (c) and (d) those of the grid.
        full = Cell(kl_weight=params.grid.levels_kl_weight, resolution=params.prepare.image_size)
        coarse = [cell for cell in grid.levels_cells(params) if cell.levels != full.levels]
        nearest = sorted(coarse, key=lambda cell: (abs(cell.levels - 32), cell.levels))[:1]
        return [cell for cell in (full, *nearest, *grid.resolution_cells(params)) if cell in grid.all_cells(params)]
    return grid.all_cells(params) if name == "training" else []


def inputs(name: str, params: Params) -> list[str]:
    """Return the files that a figure reads, relative to results/<preset>/.

    Raises:
        UserError: there is no such figure.
    """
    _check(name)
    if name == "2":
        return []
    if name == "training":
        return [HISTORIES]
    if name == "table1":
        return [TABLE_1_FILE, ORDER]
    if name == "codec":
        return [CODEC_TABLE]
    if name == "growth":
        return [growth_path(cell, seed) for cell in figure_cells(name, params) for seed in params.grid.seeds]
    if name == "bits":
        cells, seed = figure_cells(name, params), params.grid.seeds[0]
        return [BOUNDS, *(per_image_path(cell, seed) for cell in cells), shown_path(cells[0], seed)]
    if name in IMAGE_FIGURES:
        return [BOUNDS, *(shown_path(cell, params.grid.seeds[0]) for cell in figure_cells(name, params))]
    return [BOUNDS]


def outputs(name: str) -> list[str]:
    """Return the files that `draw` writes, relative to results/<preset>/."""
    data = "npz" if name in IMAGE_FIGURES else "csv"
    return [f"figures/figure{name}.{ending}" for ending in ("pdf", "png", data)]


def caption_values(name: str, params: Params) -> dict[str, str]:
    """Return the values that the caption of a figure in the report names.

    Args:
        name: one of NAMES.
        params: the parameters of the preset.

    Returns:
        {name of a value: text}: lists of the models' `kl_weights` and `levels`, the number of `models` and `seeds`, the first `seed`
        and, for the figures that need them, `samples`, `rows` and `temperature`. Empty for Figure 2, which shows no result.
    """
    cells, sample = figure_cells(name, params), params.sample
    if name == "2":
        return {}
    more = {
        "growth": {"samples": str(params.evaluate.iwae_samples)},
        "completions": {"rows": str(sample.completion_rows), "temperature": f"{sample.temperature:g}"},
    }
    return {
        "models": str(len(cells)),
        "kl_weights": _listed(cell.kl_weight for cell in cells if cell.has_vae),
        "levels": _listed(cell.levels for cell in cells if cell.has_vae),
        "seed": str(params.grid.seeds[0]),
        "seeds": "1 training seed" if len(params.grid.seeds) == 1 else f"{len(params.grid.seeds)} training seeds",
        **more.get(name, {}),
    }


def draw(name: str, params: Params, preset: str, results: Path) -> None:
    """Draw a figure: figures/figureNAME.pdf, figureNAME.png and what they show as figureNAME.csv or figureNAME.npz.

    The same inputs give the same bytes.

    Args:
        name: one of NAMES.
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: there is no such figure, or an input is missing or damaged; the message names the command that makes it.
    """
    _check(name)
    source = Results(params, preset, results)
    if name == "2":
        from agave.figures import schematic

        schematic.draw(source)
    elif name == "bits":
        from agave.figures import bits

        bits.draw(source)
    elif name in IMAGE_FIGURES:
        from agave.figures import images

        images.draw(name, source)
    elif name == "table1":
        from agave.figures import table1

        table1.draw(source)
    elif name == "codec":
        from agave.figures import codec

        codec.draw(source)
    else:
        from agave.figures import curves

        curves.draw(name, source)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values)))


def _check(name: str) -> None:
    if name not in NAMES:
        raise UserError(f"there is no figure '{name}'; accepted: {', '.join(NAMES)}")
