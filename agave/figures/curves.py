"""Figures 4, 5b, the growth of the bound and the training curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from agave import grid
from agave.figures import figure_cells
from agave.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, SKY, SMALL, WIDTH, save, style, wrap
from agave.grid import Cell
from agave.results import BOUND_QUANTITIES, BOUNDS, GROWTH_COLUMNS, HISTORIES, HISTORIES_COLUMNS, Results, Row, growth_path


@dataclass(frozen=True)
class Estimate:
    """A quantity of one cell.

    Attributes:
        value: mean over images and seeds, bits/dim.
        standard_error: over images where there is one seed, else of the mean over seeds, bits/dim.
        seeds: number of training runs.
    """

    value: float
    standard_error: float
    seeds: int


def estimate(source: Results, cell: Cell, quantity: str) -> Estimate:
    """Mean over seeds of a column of tables/bounds.csv, with its standard error.

    Raises:
        UserError: the table is missing, lacks the cell, or the value is no number.
    """
    rows = source.bounds(cell)
    values = [source.number(BOUNDS, row, quantity) for row in rows]
    if len(values) == 1:
        return Estimate(values[0], source.number(BOUNDS, rows[0], f"{quantity}_standard_error"), 1)
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values)), len(values))


def draw(name: str, source: Results) -> None:
    """Draw one of the figures 4, 5b, growth and training.

    Raises:
        UserError: an input is missing or damaged.
    """
    makers = {"4": _figure_4, "5b": _figure_5b, "growth": _growth, "training": _training}
    with style():
        figure, rows = makers[name](source)
        save(figure, name, source, rows)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart until neighbours are at least `gap` apart, keeping their order and each cluster's mean."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    clusters: list[list[int]] = []
    centres: list[float] = []
    for index in order:
        clusters.append([index])
        centres.append(positions[index])
        while len(clusters) > 1 and centres[-1] - centres[-2] < gap * (len(clusters[-1]) + len(clusters[-2])) / 2:
            last = clusters.pop()
            clusters[-1] += last
            centres.pop()
            centres[-1] = sum(positions[member] for member in clusters[-1]) / len(clusters[-1])
    moved = list(positions)
    for cluster, centre in zip(clusters, centres, strict=True):
        for place, member in enumerate(cluster):
            moved[member] = centre + gap * (place - (len(cluster) - 1) / 2)
    return moved


def _error_note(source: Results) -> str:
    seeds = len(source.params.grid.seeds)
    return f"standard error over {seeds} seeds" if seeds > 1 else "standard error over test images (one seed)"


def _row(source: Results, cell: Cell, quantity: str, found: Estimate) -> Row:
    return {
        "cell": cell.name,
        "kl_weight": f"{cell.kl_weight:g}" if cell.has_vae else "",
        "levels": str(cell.levels) if cell.has_vae else "",
        "quantity": quantity,
        "bits_per_dim": f"{found.value:.6f}",
        "standard_error": f"{found.standard_error:.6f}",
        "error_over": "seeds" if found.seeds > 1 else "images",
        "seeds": str(found.seeds),
        "data_set": source.data_set(),
    }


GROWTH_STYLES = [(ORANGE, "s"), (BLUE, "o"), (GREEN, "^"), (PINK, "D"), (SKY, "v"), (INK, "x"), (GREY, "P")]
SMOOTH = 9  # rows of a training history that are averaged; odd
CURVES = {  # quantity: (label, colour, dashes); solid: bits/dim of a decoder; dashed: reconstruction terms
    "vae_bits_per_dim": ("VAE decoder", ORANGE, "-"),
    "vae_reconstruction": ("VAE reconstruction", ORANGE, "--"),
    "pixelcnn_bits_per_dim": ("PixelCNN decoder", BLUE, "-"),
    "pixelcnn_reconstruction": ("PixelCNN reconstruction", BLUE, "--"),
    "kl": ("KL", GREEN, "-"),
}
ALONE = "PixelCNN++ alone"


def _curve(axes: Axes, weights: Sequence[float], found: Sequence[Estimate], quantity: str) -> None:
    _, color, dashes = CURVES[quantity]
    values = np.array([one.value for one in found])
    errors = np.array([one.standard_error for one in found])
    axes.fill_between(weights, values - errors, values + errors, color=color, alpha=0.18, linewidth=0)
    axes.plot(weights, values, dashes, color=color, marker="o")


def _kl_weight_axis(axes: Axes, weights: Sequence[float]) -> None:
    if min(weights) > 0:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(weights)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(False, axis="x")


def _figure_4(source: Results) -> tuple[Figure, list[Row]]:
    # PAPER: the footnote says the graphs are "based on the bound in Eq. 7"; read as its terms for one sample, weighted as in the
    # likelihood bound (KL once, without lambda, and the other decoder's term left out), because Eq. 7 itself is no bits/dim of x.
    *agave, alone = figure_cells("4", source.params)
    weights = [cell.kl_weight for cell in agave]
    found = {quantity: [estimate(source, cell, quantity) for cell in agave] for quantity in CURVES}
    baseline = estimate(source, alone, "pixelcnn_bits_per_dim")
    rows = [_row(source, cell, quantity, found[quantity][i]) for i, cell in enumerate(agave) for quantity in BOUND_QUANTITIES]
    rows.append(_row(source, alone, "pixelcnn_bits_per_dim", baseline))

    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    panels = figure.subplot_mosaic([["all", "pixelcnn_pp"], ["all", "kl"]], width_ratios=[1.55, 1])
    for axes in panels.values():
        _kl_weight_axis(axes, weights)
        axes.set_ylabel("bits/dim")
    for quantity, estimates in found.items():
        _curve(panels["all"], weights, estimates, quantity)
    for name, quantity in (("pixelcnn_pp", "pixelcnn_bits_per_dim"), ("kl", "kl")):
        _curve(panels[name], weights, found[quantity], quantity)
    for name in ("all", "pixelcnn_pp"):
        panels[name].axhline(baseline.value, color=INK, linestyle=":", linewidth=1.2)
    panels["all"].set_ylim(bottom=0)
    panels["kl"].set_ylim(bottom=0)
    panels["all"].set_title("Both decoders and their terms")
    panels["pixelcnn_pp"].set_title("PixelCNN decoder, enlarged", color=BLUE)
    panels["kl"].set_title("KL term, enlarged", color=GREEN)
    below = baseline.value <= found["pixelcnn_bits_per_dim"][0].value  # the side of the line away from the curve's start
    panels["pixelcnn_pp"].margins(y=0.16)
    where, offset = (0.02, baseline.value), (0, -3 if below else 3)
    panels["pixelcnn_pp"].annotate(
        ALONE, where, offset, ("axes fraction", "data"), "offset points", va="top" if below else "bottom", size=SMALL
    )
    for name in ("all", "kl"):
        panels[name].set_xlabel("KL weight λ")
    ends = [(CURVES[quantity][0], CURVES[quantity][1], estimates[-1].value) for quantity, estimates in found.items()]
    _label_ends(panels["all"], [*ends, (ALONE, INK, baseline.value)], weights[-1])
    _caption(figure, source, f"Solid: bits/dim of a decoder = KL + its reconstruction term (dashed). Bands: {_error_note(source)}.")
    return figure, rows


def _label_ends(axes: Axes, ends: Sequence[tuple[str, str, float]], last: float) -> None:
    """Name each curve at its right end, labels moved apart where curves end close together, with a thin line to the end."""
    low, high = axes.get_ylim()
    places = spread([value for _, _, value in ends], gap=0.062 * (high - low))
    for (label, color, value), place in zip(ends, places, strict=True):
        axes.annotate(
            label,
            (last, value),
            (1.07, place),
            textcoords=axes.get_yaxis_transform(),
            color=color,
            size=SMALL,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def _caption(figure: Figure, source: Results, text: str, data: str | None = None) -> None:
    lines = wrap(f"{text} Data: {data or source.data_set()}. Preset {source.preset}.", 0.97 * figure.get_figwidth(), SMALL)
    figure.supxlabel("\n".join(lines), size=SMALL, color=GREY, x=0.01, ha="left")


def _figure_5b(source: Results) -> tuple[Figure, list[Row]]:
    shown = figure_cells("5b", source.params)
    found = [estimate(source, cell, "pixelcnn_bits_per_dim") for cell in shown]
    levels = [cell.levels for cell in shown]
    figure = Figure(figsize=(3.7, 2.7), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.errorbar(
        levels, [one.value for one in found], [one.standard_error for one in found], color=BLUE, marker="o", capsize=2.5, elinewidth=0.9
    )
    axes.xaxis.set_major_locator(FixedLocator(levels))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(False, axis="x")
    axes.set_xlabel("colour levels b of the auxiliary image")
    axes.set_ylabel("bits/dim of the PixelCNN decoder")
    axes.set_title(f"λ = {shown[0].kl_weight:g}")
    shared = "" if len(source.params.grid.seeds) > 1 else " The images are the same for all models: these errors go up and down together."
    _caption(figure, source, f"Bars: {_error_note(source)}.{shared}")
    return figure, [_row(source, cell, "pixelcnn_bits_per_dim", one) for cell, one in zip(shown, found, strict=True)]


def _growth(source: Results) -> tuple[Figure, list[Row]]:
    seeds = source.params.grid.seeds
    shown = figure_cells("growth", source.params)
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    drawn: list[Row] = []
    counts: list[float] = []
    for cell, (color, marker) in zip(shown, GROWTH_STYLES * len(shown), strict=False):
        paths = [growth_path(cell, seed) for seed in seeds]
        found = [source.rows(path, GROWTH_COLUMNS) for path in paths]
        columns = {
            column: [[source.number(path, row, column) for row in rows] for path, rows in zip(paths, found, strict=True)]
            for column in ("samples", "gain", "gain_standard_error")
        }
        counts = columns["samples"][0]
        if any(other != counts for other in columns["samples"]):
            raise source.wrong(paths[-1], "has other numbers of samples than the first seed")
        gains = np.mean(columns["gain"], axis=0)
        errors = np.sqrt(np.mean(np.square(columns["gain_standard_error"]), axis=0))  # over images, the same ones for every seed
        size = "" if cell.resolution == source.params.prepare.image_size else f", {cell.resolution}×{cell.resolution}"
        label = "VAE alone" if cell.kind == "vae" else f"λ = {cell.kl_weight:g}{size}"
        axes.errorbar(counts, gains, errors, color=color, marker=marker, capsize=2.5, elinewidth=0.9, label=label)
        drawn += [{column: row[column] for column in GROWTH_COLUMNS} for rows in found for row in rows]
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("importance samples K")
    axes.set_ylabel("bits/dim below the one-sample bound")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1.03))
    images = ", ".join(sorted({row["images"] for row in drawn}))
    note = f"Gain of the bound with K samples over that with the first one; {images} images. Bars: standard error over images of the gain"
    _caption(figure, source, note + (f", mean over {len(seeds)} seeds." if len(seeds) > 1 else "."), drawn[0]["data_set"])
    return figure, drawn


def _smooth(values: list[float]) -> list[float]:
    """Running mean over SMOOTH neighbours, fewer at the ends."""
    half = SMOOTH // 2
    return [float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]


def _training(source: Results) -> tuple[Figure, list[Row]]:
    params = source.params
    seeds = params.grid.seeds
    vae, pixelcnn_pp = grid.baselines(params)
    resolutions = sorted({cell.resolution for cell in grid.all_cells(params) if cell.has_vae}, reverse=True)
    weights, levels = grid.kl_weight_cells(params), grid.levels_cells(params)
    others = [(f"y {cell.resolution}×{cell.resolution}, λ = {cell.kl_weight:g}", cell.name) for cell in grid.resolution_cells(params)]
    others += [("no auxiliary loss", cell.name) for cell in grid.without_auxiliary_cells(params)]
    panels: list[tuple[str, str, list[tuple[str, str]]]] = [  # title, stage, [(label, model)]
        ("VAE, pretraining", "pretrain", [(f"y {size}×{size}", f"vae-resolution~{size}") for size in resolutions]),
        ("PixelCNN++, pretraining", "pretrain", [("PixelCNN++", "pixelcnn_pp")]),
        ("Baselines, trained further", "joint", [("VAE alone", vae.name), ("PixelCNN++ alone", pixelcnn_pp.name)]),
        ("AGAVE, KL weights", "joint", [(f"λ = {cell.kl_weight:g}", cell.name) for cell in weights]),
        (
            f"AGAVE, colour levels (λ = {params.grid.levels_kl_weight:g})",
            "joint",
            [(f"{cell.levels} levels", cell.name) for cell in levels],
        ),
        ("AGAVE, other models", "joint", others),
    ]
    histories: dict[tuple[str, str, str], list[Row]] = {}
    for row in source.rows(HISTORIES, HISTORIES_COLUMNS):
        histories.setdefault((row["stage"], row["model"], row["seed"]), []).append(row)
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    for axes, (title, stage, models) in zip(figure.subplots(3, 2).flat, panels, strict=True):
        axes.set_title(title)
        axes.set_visible(bool(models))
        tops = []
        colors = mpl.colormaps["viridis"](np.linspace(0, 0.88, len(models)))
        for (label, model), color in zip(models, colors, strict=True):
            for seed in seeds:
                rows = histories.get((stage, model, str(seed)))
                if rows is None:
                    raise source.wrong(HISTORIES, f"has no row for {stage} {model}, seed {seed}")
                steps, totals = ([source.number(HISTORIES, row, column) for row in rows] for column in ("step", "total"))
                totals = _smooth(totals)
                axes.plot(steps, totals, color=color, linewidth=1, label=label if seed == seeds[0] else None)
                tops.append((min(totals), float(np.quantile(totals, 0.95))))
        if tops:
            low, high = min(low for low, _ in tops), max(high for _, high in tops)
            axes.set_ylim(low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1))
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1.03), handlelength=1.2, labelspacing=0.25)
    for axes in figure.axes:
        axes.set_xlabel("step")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylabel("bits/dim of x")
    note = (
        "Bound on the training batches: KL + PixelCNN reconstruction, or KL + VAE reconstruction for the VAE; "
        f"mean of {SMOOTH} neighbouring rows of history.csv. The start can lie above a panel."
    )
    _caption(figure, source, note + (f" One line per seed ({len(seeds)})." if len(seeds) > 1 else ""), "the training images")
    return figure, [row for rows in histories.values() for row in rows]
