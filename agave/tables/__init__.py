"""The tables: all bounds, all importance-sampled bounds, and Table 1 of the paper with our rows beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agave import grid
from agave.config import Params
from agave.csv_tables import write_table
from agave.files import atomic_write
from agave.grid import Cell
from agave.results import BOUND_COLUMNS, BOUND_QUANTITIES, BOUNDS, IWAE, IWAE_COLUMNS, Results, Row, bound_path, iwae_path

PUBLISHED_DATA_SET = "CIFAR-10 test"
PUBLISHED_IMAGES = 10_000


@dataclass(frozen=True)
class Published:
    """A row of Table 1 of the paper: bits per dimension on the 10,000 CIFAR-10 test images.

    Attributes:
        model: its name there.
        reference: whose number it is.
        bound: "<=" where the number is an upper bound, else "".
        bits_per_dim: as printed.
    """

    model: str
    reference: str
    bound: str
    bits_per_dim: str


TABLE_1 = (
    Published("NICE", "Dinh et al., 2015", "", "4.48"),
    Published("Conv. DRAW", "Gregor et al., 2016", "<=", "3.58"),
    Published("Real NVP", "Dinh et al., 2017", "", "3.49"),
    Published("MatNet", "Bachman, 2016", "<=", "3.24"),
    Published("PixelCNN", "Oord et al., 2016", "", "3.14"),
    Published("VAE-IAF", "Kingma et al., 2016", "<=", "3.11"),
    Published("Gated pixelCNN", "van den Oord et al., 2016", "", "3.03"),
    Published("Pixel-RNN", "Oord et al., 2016", "", "3.00"),
    Published("Aux. pixelCNN", "Kolesnikov & Lampert, 2017", "", "2.98"),
    Published("Lossy VAE", "Chen et al., 2017", "<=", "2.95"),
    Published("AGAVE, λ = 12", "Lucas & Verbeek, 2017", "<=", "2.92"),
    Published("pixCNN++", "Salimans et al., 2017", "", "2.92"),
)
# PAPER: the text does not say whether its 2.94 and 2.93 are one-sample or importance-sampled bounds; ours are importance-sampled.
LOW_RESOLUTION = {16: "2.94", 8: "2.93"}  # of 32x32 images, section 4.2 of the paper


@dataclass(frozen=True)
class Measured:
    """Our number for a row.

    Attributes:
        setting: the model that was measured.
        bound: "<=" for a lower bound of the likelihood, "" for the exact likelihood.
        bits_per_dim: mean over images and seeds.
        standard_error: of it, see `combine`.
        images: number of images, per seed.
        samples: K of the importance-sampled bound; None for the exact likelihood.
        seeds: number of training runs averaged.
        data_set: what was measured on.
    """

    setting: str
    bound: str
    bits_per_dim: float
    standard_error: float
    images: str
    samples: str | None
    seeds: int
    data_set: str

    @property
    def comparable(self) -> bool:
        """Whether it was measured on what the published numbers were: all 10,000 CIFAR-10 test images."""
        return self.data_set == PUBLISHED_DATA_SET and self.images == str(PUBLISHED_IMAGES)


FILES = ("bounds.csv", "iwae.csv", "table1.csv", "table1.md", "table1.tex", "metrics.json")


def inputs(params: Params) -> list[str]:
    """The files that `write_tables` reads, relative to results/<preset>/."""
    seeds = params.grid.seeds
    bounds = [bound_path(cell, seed) for cell in grid.all_cells(params) for seed in seeds]
    return bounds + [iwae_path(cell, seed) for cell in grid.table_cells(params) for seed in seeds]


def write_tables(params: Params, preset: str, results: Path) -> None:
    """Gather the bounds of all cells and write Table 1.

    Only the cells and seeds of the grid are read: folders left by an earlier grid are ignored.
    Writes tables/bounds.csv, iwae.csv, table1.csv, table1.md, table1.tex and metrics.json below `results`.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: a result is missing, damaged or belongs to another cell or data set; the message names the command that makes it.
    """
    source = Results(params, preset, results)
    bounds = _gather(source, grid.all_cells(params), bound_path, BOUND_COLUMNS)
    iwae = _gather(source, grid.table_cells(params), iwae_path, IWAE_COLUMNS, bounds[0]["data_set"])
    folder = results / "tables"
    write_table(results / BOUNDS, bounds)
    write_table(results / IWAE, iwae)
    rows = _table_1(source, bounds, iwae)
    write_table(folder / "table1.csv", [_csv_row(*row) for row in rows])
    texts = {
        "table1.md": _markdown(rows, preset),
        "table1.tex": _latex(rows, preset),
        "metrics.json": json.dumps(_metrics(source, bounds, rows), indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def combine(values: Sequence[float], standard_errors: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and its standard error.

    All seeds are measured on the same images, so the error that comes from the choice of the images does not shrink with
    the number of seeds; the error that comes from training does. Added in quadrature:
    sqrt(mean_s(standard_error_s^2) + variance_s(value_s) / S), the second term only for S > 1.

    Args:
        values: one per seed, bits/dim.
        standard_errors: over images, one per seed, bits/dim.

    Returns:
        Mean and standard error, bits/dim.
    """
    seeds = len(values)
    mean = math.fsum(values) / seeds
    of_images = math.fsum(error**2 for error in standard_errors) / seeds
    of_seeds = math.fsum((value - mean) ** 2 for value in values) / (seeds - 1) / seeds if seeds > 1 else 0.0
    return mean, math.sqrt(of_images + of_seeds)


def _gather(
    source: Results, of: Sequence[Cell], path_of: Callable[[Cell, int], str], columns: Sequence[str], data_set: str | None = None
) -> list[Row]:
    gathered: list[Row] = []
    for cell in of:
        for seed in source.params.grid.seeds:
            path = path_of(cell, seed)
            rows = source.rows(path, columns)
            if len(rows) != 1 or (rows[0]["cell"], rows[0]["seed"]) != (cell.name, str(seed)):
                raise source.wrong(path, f"does not hold exactly one row, for the cell {cell.name} and seed {seed}")
            data_set = data_set or rows[0]["data_set"]
            if rows[0]["data_set"] != data_set:
                raise source.wrong(path, f"was measured on '{rows[0]['data_set']}', others on '{data_set}'")
            if gathered and list(rows[0]) != list(gathered[0]):
                raise source.wrong(path, "has other columns than the cells before it")
            gathered += rows
    return gathered


def _table_1(source: Results, bounds: list[Row], iwae: list[Row]) -> list[tuple[Published, Measured | None]]:
    params = source.params
    vae, pixelcnn_pp = grid.baselines(params)
    _, best, *low = grid.table_cells(params)

    def measured(cell: Cell, setting: str, rows: list[Row], path_of: Callable[[Cell, int], str], quantity: str) -> Measured:
        own = [row for row in rows if row["cell"] == cell.name]
        paths = [path_of(cell, seed) for seed in params.grid.seeds]
        values = [source.number(path, row, quantity) for path, row in zip(paths, own, strict=True)]
        errors = [source.number(path, row, f"{quantity}_standard_error") for path, row in zip(paths, own, strict=True)]
        samples = own[0].get("samples")
        return Measured(setting, "<=" if samples else "", *combine(values, errors), own[0]["images"], samples, len(own), own[0]["data_set"])

    def bound(cell: Cell, setting: str) -> Measured:
        return measured(cell, setting, iwae, iwae_path, "iwae_bits_per_dim")

    ours = {
        "VAE-IAF": bound(vae, "VAE-IAF"),
        "AGAVE, λ = 12": bound(best, f"AGAVE, λ = {best.kl_weight:g}"),
        "pixCNN++": measured(pixelcnn_pp, "PixelCNN++", bounds, bound_path, "pixelcnn_bits_per_dim"),
    }
    table: list[tuple[Published, Measured | None]] = [(row, ours.get(row.model)) for row in TABLE_1]
    for cell in low:
        size = f"{cell.resolution}×{cell.resolution}"
        value = LOW_RESOLUTION.get(cell.resolution, "") if params.prepare.image_size == 32 else ""
        row = Published(f"AGAVE, {size} auxiliary image", "Lucas & Verbeek, 2017, text" if value else "not in the paper", "", value)
        table.append((row, bound(cell, f"AGAVE, λ = {cell.kl_weight:g}, {size}")))
    return table


def _metrics(source: Results, bounds: list[Row], rows: Sequence[tuple[Published, Measured | None]]) -> dict[str, Any]:
    """What `dvc metrics diff` compares, bits/dim, means over seeds: each term of each cell's bound, and our numbers of Table 1."""
    terms: dict[str, dict[str, float]] = {}
    for cell in grid.all_cells(source.params):
        own = [row for row in bounds if row["cell"] == cell.name]
        terms[cell.name] = {
            quantity: round(math.fsum(source.number(BOUNDS, row, quantity) for row in own) / len(own), 6)
            for quantity in BOUND_QUANTITIES
            if own[0][quantity] != ""
        }
    return {"table1": {ours.setting: round(ours.bits_per_dim, 6) for _, ours in rows if ours is not None}, "cells": terms}


def _csv_row(published: Published, ours: Measured | None) -> Row:
    row = {
        "model": published.model,
        "reference": published.reference,
        "published_bound": published.bound,
        "published_bits_per_dim": published.bits_per_dim,
        "published_mark": "cited" if published.bits_per_dim else "",
        "published_data_set": PUBLISHED_DATA_SET if published.bits_per_dim else "",
    }
    if ours is None:
        keys = ("model", "bound", "bits_per_dim", "standard_error", "images", "samples", "seeds", "measured_on", "comparable")
        return row | {f"our_{key}": "" for key in keys}
    return row | {
        "our_model": ours.setting,
        "our_bound": ours.bound,
        "our_bits_per_dim": f"{ours.bits_per_dim:.6f}",
        "our_standard_error": f"{ours.standard_error:.6f}",
        "our_images": ours.images,
        "our_samples": ours.samples or "",
        "our_seeds": str(ours.seeds),
        "our_measured_on": ours.data_set,
        "our_comparable": "yes" if ours.comparable else "no",
    }


HEADER = ("Model", "Reference", "Published", "Ours", "Standard error", "K", "Images", "Seeds", "Measured on", "Our model")


def _text_row(published: Published, ours: Measured | None, cited: str, other: str) -> list[str]:
    """The columns of HEADER; `cited` marks a cited value, `other` one that was not measured on the CIFAR-10 test images."""
    value = f"{published.bound} {published.bits_per_dim}{cited}".strip() if published.bits_per_dim else ""
    if ours is None:
        return [published.model, published.reference, value, *[""] * 7]
    mark = "" if ours.comparable else other
    own = f"{ours.bound} {ours.bits_per_dim:.3f}{mark}".strip()
    samples, seeds = ours.samples or "exact", str(ours.seeds)
    return [
        published.model,
        published.reference,
        value,
        own,
        f"{ours.standard_error:.3f}",
        samples,
        ours.images,
        seeds,
        ours.data_set,
        ours.setting,
    ]


def _notes(rows: Sequence[tuple[Published, Measured | None]], preset: str, cited: str, other: str) -> list[str]:
    ours = [own for _, own in rows if own is not None]
    notes = [
        f"Bits per dimension, lower is better. Preset {preset}. Published: on the {PUBLISHED_IMAGES:,} {PUBLISHED_DATA_SET} images.",
        f"{cited} cited from the paper (Table 1 or section 4.2), not measured here.",
        "Ours: importance-sampled bound with K samples, or the exact likelihood; mean over images and seeds.",
        "Standard error: over images, and over seeds where there are several, added in quadrature.",
    ]
    if not all(own.comparable for own in ours):
        notes.append(
            f"{other} not measured on the {PUBLISHED_IMAGES:,} {PUBLISHED_DATA_SET} images: not comparable with the published values."
        )
    if len({own.images for own in ours}) > 1:
        notes.append("Our rows with different numbers of images are means over different images.")
    return notes


def _markdown(rows: Sequence[tuple[Published, Measured | None]], preset: str) -> str:
    lines = [list(HEADER), ["---", "---", *["---:"] * 6, "---", "---"], *[_text_row(*row, cited=" †", other=" ‡") for row in rows]]
    table = ["| " + " | ".join(cell.replace("<=", "≤") for cell in line) + " |" for line in lines]
    return "\n".join([*table, "", *[f"{note}  " for note in _notes(rows, preset, "†", "‡")]]) + "\n"


def _latex(rows: Sequence[tuple[Published, Measured | None]], preset: str) -> str:
    def escape(text: str) -> str:
        for old, new in (("\\", r"\textbackslash "), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#"), ("×", r"$\times$")):
            text = text.replace(old, new)
        for old, new in (("λ", r"$\lambda$"), ("<=", r"$\leq$"), ("†", r"$^\dagger$"), ("‡", r"$^\ddagger$")):
            text = text.replace(old, new)
        return text

    def line(texts: Sequence[str]) -> str:
        return " & ".join(escape(text) for text in texts) + r" \\"

    body = [line(_text_row(*row, cited="†", other="‡")) for row in rows]
    return "\n".join(
        [
            "% needs the package booktabs",
            r"\begin{tabular}{llrrrrrrll}",
            r"\toprule",
            line(HEADER),
            r"\midrule",
            *body[: len(TABLE_1)],
            *([r"\midrule", *body[len(TABLE_1) :]] if len(body) > len(TABLE_1) else []),
            r"\bottomrule",
            r"\multicolumn{10}{p{\linewidth}}{\footnotesize " + escape(" ".join(_notes(rows, preset, "†", "‡"))) + r"} \\",
            r"\end{tabular}",
            "",
        ]
    )
