"""Figures 4, 5b, the growth of the bound and the training curves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from agave import grid
from agave.config import Params
from agave.figures import figure_cells
from agave.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, SKY, SMALL, WIDTH, footnote, save, style
from agave.grid import Cell
from agave.results import BOUNDS, HISTORIES, Results, growth_path
from agave.schemas import BOUND_QUANTITIES, GROWTH_SCHEMA, HISTORIES_SCHEMA
from agave.statistics import FORMULA, over_seeds

SMOOTH = 9  # rows of a training history that are averaged; odd
ALONE = "PixelCNN++ alone"
LABELS = {
    "vae_bits_per_dim": "VAE decoder",
    "vae_reconstruction": "VAE reconstruction",
    "pixelcnn_bits_per_dim": "PixelCNN decoder",
    "pixelcnn_reconstruction": "PixelCNN reconstruction",
    "kl": "KL",
}
COLORS = {"kl": GREEN} | {quantity: ORANGE if quantity.startswith("vae") else BLUE for quantity in LABELS if quantity != "kl"}
MARKERS = ["s", "o", "^", "D", "v", "P", "X"]
DASHES = {quantity: (3.7, 1.6) if quantity.endswith("reconstruction") else "" for quantity in LABELS}


def draw(name: str, source: Results) -> None:
    """Draw one of the figures 4, 5b, growth and training.

    Raises:
        UserError: an input is missing or damaged.
    """
    makers = {"4": _figure_4, "5b": _figure_5b, "growth": _growth, "training": _training}
    with style():
        figure, data = makers[name](source)
        save(figure, name, source, data)


def estimates(source: Results, cells: Sequence[Cell], quantities: Sequence[str]) -> pd.DataFrame:
    """Average quantities of tables/bounds.csv over seeds.

    Args:
        source: the results of a preset.
        cells: the models.
        quantities: columns of the table, bits/dim.

    Returns:
        One row per cell and quantity: cell, kl_weight, levels, quantity, bits_per_dim, standard_error, seeds, data_set.

    Raises:
        UserError: the table is missing, lacks a cell, or a value of it is missing.
    """
    bounds = source.bounds_of(cells)
    same = bounds[["cell", "kl_weight", "levels", "data_set", "seed"]]
    parts = [
        same.assign(quantity=quantity, bits_per_dim=bounds[quantity], bits_per_dim_standard_error=bounds[f"{quantity}_standard_error"])
        for quantity in quantities
    ]
    table = pd.concat(parts).sort_index(kind="stable")  # all quantities of a cell together
    missing = table[table["bits_per_dim"].isna()]
    if len(missing):
        raise source.wrong(BOUNDS, f"{missing['quantity'].iloc[0]} of {missing['cell'].iloc[0]} is missing")
    found = over_seeds(table, "bits_per_dim", ["cell", "kl_weight", "levels", "data_set", "quantity"]).reset_index()
    found = found.rename(columns={"value": "bits_per_dim"})
    return found[["cell", "kl_weight", "levels", "quantity", "bits_per_dim", "standard_error", "seeds", "data_set"]]


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart until neighbours are at least `gap` apart, keeping their order and the mean of each cluster."""
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


def _figure_4(source: Results) -> tuple[Figure, pd.DataFrame]:
    # PAPER: The footnote says that the graphs are "based on the bound in Eq. 7". We read this as its terms for one sample, weighted as in
    # the likelihood bound (KL once, without lambda, and without the term of the other decoder), because Eq. 7 is not in bits/dim of x.
    *agave, alone = figure_cells("4", source.params)
    found, baseline = estimates(source, agave, BOUND_QUANTITIES), estimates(source, [alone], ["pixelcnn_bits_per_dim"])
    level = float(baseline["bits_per_dim"].iloc[0])

    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    panels = figure.subplot_mosaic([["all", "pixelcnn_pp"], ["all", "kl"]], width_ratios=[1.55, 1])
    for name, quantities in {"all": list(LABELS), "pixelcnn_pp": ["pixelcnn_bits_per_dim"], "kl": ["kl"]}.items():
        _curves(panels[name], found[found["quantity"].isin(quantities)])
    for name in ("all", "pixelcnn_pp"):
        panels[name].axhline(level, color=INK, linestyle=":", linewidth=1.2)
    for name in ("all", "kl"):
        panels[name].set_ylim(bottom=0)
        panels[name].set_xlabel("KL weight λ")
    panels["all"].set_title("Both decoders and their terms")
    panels["pixelcnn_pp"].set_title("PixelCNN decoder, enlarged", color=BLUE)
    panels["kl"].set_title("KL term, enlarged", color=GREEN)
    panels["pixelcnn_pp"].margins(y=0.16)
    below = level <= found.loc[found["quantity"] == "pixelcnn_bits_per_dim", "bits_per_dim"].iloc[0]  # away from the curve's start
    where, offset = (0.02, level), (0, -3 if below else 3)
    panels["pixelcnn_pp"].annotate(
        ALONE, where, offset, ("axes fraction", "data"), "offset points", va="top" if below else "bottom", size=SMALL
    )
    last = found[found["cell"] == agave[-1].name].set_index("quantity")["bits_per_dim"]
    ends = [(label, COLORS[quantity], float(last[quantity])) for quantity, label in LABELS.items()]
    _label_ends(panels["all"], [*ends, (ALONE, INK, level)], agave[-1].kl_weight)
    text = "Solid lines: bits/dim of a decoder, the sum of the KL and the decoder's reconstruction term (dashed)."
    _caption(figure, source, f"{text} Bands: {_error_note(source)}; differences on the same images are surer, see the claims.")
    return figure, _written(pd.concat([found, baseline]))


def _curves(axes: Axes, found: pd.DataFrame) -> None:
    """Draw each quantity against the KL weight, with a band of one standard error."""
    sns.lineplot(
        found,
        x="kl_weight",
        y="bits_per_dim",
        hue="quantity",
        style="quantity",
        palette=COLORS,
        dashes=DASHES,
        marker="o",
        markeredgewidth=0,
        legend=False,
        ax=axes,
    )
    for quantity, rows in found.groupby("quantity"):
        low, high = rows["bits_per_dim"] - rows["standard_error"], rows["bits_per_dim"] + rows["standard_error"]
        axes.fill_between(rows["kl_weight"], low, high, color=COLORS[str(quantity)], alpha=0.18, linewidth=0)
    if found["kl_weight"].min() > 0:
        axes.set_xscale("log", base=2)
    _ticks(axes, found["kl_weight"])
    axes.set(xlabel="", ylabel="bits/dim")


def _ticks(axes: Axes, values: pd.Series[float]) -> None:
    """Put a tick at each value of x, without grid lines."""
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(False, axis="x")


def _label_ends(axes: Axes, ends: Sequence[tuple[str, str, float]], last: float) -> None:
    """Label each curve at its right end. Labels of curves that end close together are moved apart, with a thin line to the end."""
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
    footnote(figure, f"{text} Data: {data or source.data_set()}. Preset {source.preset}.")


def _error_note(source: Results) -> str:
    seeds = len(source.params.grid.seeds)
    return f"standard error over images and seeds = {FORMULA}; {seeds} seed{'s' if seeds > 1 else ''}"


def _written(found: pd.DataFrame) -> pd.DataFrame:
    """Return a value as the csv file shows it, with six decimals."""
    columns = ["bits_per_dim", "standard_error"]
    return found.assign(**{column: found[column].map("{:.6f}".format, na_action="ignore") for column in columns})


def _figure_5b(source: Results) -> tuple[Figure, pd.DataFrame]:
    shown = figure_cells("5b", source.params)
    found = estimates(source, shown, ["pixelcnn_bits_per_dim"])
    figure = Figure(figsize=(3.9, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    sns.lineplot(found, x="levels", y="bits_per_dim", color=BLUE, marker="o", markeredgewidth=0, ax=axes)
    _error_bars(axes, found, "levels", "bits_per_dim", BLUE)
    _ticks(axes, found["levels"])
    axes.set(xlabel="colour levels b of the auxiliary image", ylabel="bits/dim of the PixelCNN decoder")
    axes.set_title(f"λ = {shown[0].kl_weight:g}")
    shared = "All models are evaluated on the same images, so most of this error is common to them: differences are more certain."
    _caption(figure, source, f"Bars: {_error_note(source)}. {shared}")
    return figure, _written(found)


def _error_bars(axes: Axes, found: pd.DataFrame, x: str, y: str, color: str) -> None:
    axes.errorbar(found[x], found[y], found["standard_error"], fmt="none", ecolor=color, capsize=2.5, elinewidth=0.9, zorder=1.5)


def _growth(source: Results) -> tuple[Figure, pd.DataFrame]:
    seeds, shown = source.params.grid.seeds, figure_cells("growth", source.params)
    table = source.gather(shown, growth_path, GROWTH_SCHEMA, single=False)
    found = over_seeds(table, "gain", ["cell", "samples"]).reset_index().rename(columns={"value": "gain"})
    for cell in shown:
        if (found.loc[found["cell"] == cell.name, "seeds"] != len(seeds)).any():
            raise source.wrong(growth_path(cell, seeds[-1]), "has other numbers of samples than the first seed")
    labels = {cell.name: _growth_label(source, cell) for cell in shown}
    found["model"] = found["cell"].map(labels)
    palette = dict(zip(labels.values(), itertools.cycle([ORANGE, BLUE, GREEN, PINK, SKY, INK, GREY]), strict=False))
    markers = dict(zip(palette, itertools.cycle(MARKERS), strict=False))

    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    look = {"palette": palette, "markers": markers, "dashes": False, "markeredgewidth": 0}
    sns.lineplot(found, x="samples", y="gain", hue="model", style="model", ax=axes, **look)
    for model, rows in found.groupby("model"):
        _error_bars(axes, rows, "samples", "gain", palette[str(model)])
    _ticks(axes, found["samples"])
    axes.set(xlabel="importance samples K", ylabel="bits/dim below the one-sample bound")
    sns.move_legend(axes, "upper left", bbox_to_anchor=(1, 1.03), title=None)
    images = ", ".join(str(number) for number in sorted(set(table["images"])))
    note = f"Bits/dim by which K importance samples lower the bound of the first sample alone, on {images} images."
    _caption(figure, source, f"{note} Bars: {_error_note(source)}.", table["data_set"].iloc[0])
    return figure, table[[column for column in GROWTH_SCHEMA if column != "precision"]]


def _growth_label(source: Results, cell: Cell) -> str:
    size = "" if cell.resolution == source.params.prepare.image_size else f", y {cell.resolution}×{cell.resolution}"
    return "VAE alone" if cell.kind == "vae" else f"λ = {cell.kl_weight:g}{size}"


def _training_panels(params: Params) -> dict[tuple[str, str], dict[str, str]]:
    """Return the models of each panel, as {(title, stage): {model: label}}."""
    vae, pixelcnn_pp = grid.baselines(params)
    resolutions = sorted({cell.resolution for cell in grid.all_cells(params) if cell.has_vae}, reverse=True)
    others = {cell.name: f"y {cell.resolution}×{cell.resolution}, λ = {cell.kl_weight:g}" for cell in grid.resolution_cells(params)}
    others |= {cell.name: "no auxiliary loss" for cell in grid.without_auxiliary_cells(params)}
    others |= {cell.name: cell.name for cell in grid.further_cells(params)}
    colour_levels = f"AGAVE, colour levels (λ = {params.grid.levels_kl_weight:g})"
    return {
        ("VAE, pretraining", "pretrain"): {f"vae-resolution~{size}": f"y {size}×{size}" for size in resolutions},
        ("PixelCNN++, pretraining", "pretrain"): {"pixelcnn_pp": "PixelCNN++"},
        ("Baselines, trained further", "joint"): {vae.name: "VAE alone", pixelcnn_pp.name: ALONE},
        ("AGAVE, KL weights", "joint"): {cell.name: f"λ = {cell.kl_weight:g}" for cell in grid.kl_weight_cells(params)},
        (colour_levels, "joint"): {cell.name: f"{cell.levels} levels" for cell in grid.levels_cells(params)},
        ("AGAVE, other models", "joint"): others,
    }


def _training(source: Results) -> tuple[Figure, pd.DataFrame]:
    seeds = source.params.grid.seeds
    histories = source.table(HISTORIES, HISTORIES_SCHEMA)
    drawn = histories.dropna(subset="total")  # a skipped step has no loss
    runs = drawn.groupby(["stage", "model", "seed"])["total"]
    drawn = drawn.assign(smooth=runs.transform(lambda total: total.rolling(SMOOTH, center=True, min_periods=1).mean()))
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    for axes, ((title, stage), labels) in zip(figure.subplots(3, 2).flat, _training_panels(source.params).items(), strict=True):
        for model, seed in itertools.product(labels, seeds):
            if (stage, model, seed) not in runs.groups:
                raise source.wrong(HISTORIES, f"has no row with a total for {stage} {model}, seed {seed}")
        rows = drawn[drawn["stage"].eq(stage) & drawn["model"].isin(labels) & drawn["seed"].isin(seeds)]
        axes.set_visible(bool(labels))
        if labels:
            _training_panel(axes, rows.assign(label=rows["model"].map(labels)), list(labels.values()))
            axes.set_title(title)
    note = (
        "The bound on the training batches: KL + PixelCNN reconstruction, or KL + VAE reconstruction for the VAE; "
        f"running mean over {SMOOTH} rows of history.csv. A curve may start above its panel."
    )
    _caption(figure, source, note + (f" One line for each of {len(seeds)} seeds." if len(seeds) > 1 else ""), "the training images")
    return figure, histories


def _training_panel(axes: Axes, rows: pd.DataFrame, labels: list[str]) -> None:
    """Draw one line per seed, with one colour per model."""
    hue = {"hue": "label", "hue_order": labels, "palette": "viridis"}
    sns.lineplot(rows, x="step", y="smooth", units="seed", estimator=None, linewidth=1, ax=axes, **hue)
    totals = rows.groupby(["label", "seed"])["smooth"]
    low, high = totals.min().min(), totals.quantile(0.95).max()
    axes.set_ylim(low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1))
    axes.set(xlabel="step", ylabel="bits/dim of x")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    sns.move_legend(axes, "upper left", bbox_to_anchor=(1, 1.03), title=None, handlelength=1.2, labelspacing=0.25)
