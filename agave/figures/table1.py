"""Figure table1: our numbers against those of Table 1 of the paper."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from agave.figures.style import BLUE, GREY, INK, ORANGE, SMALL, WIDTH, footnote, save, style
from agave.published import TABLE_1 as PUBLISHED
from agave.results import ORDER, TABLE_1, Results
from agave.schemas import ORDER_SCHEMA, TABLE_1_SCHEMA
from agave.statistics import FORMULA

ROW = 0.28  # inches


def draw(source: Results) -> None:
    """Draw the models that have a published number and one of ours, in the order of the paper.

    Raises:
        UserError: a table is missing or damaged.
    """
    table, order = source.table(TABLE_1, TABLE_1_SCHEMA), source.table(ORDER, ORDER_SCHEMA).iloc[0]
    published = [row.model for row in PUBLISHED]
    rows = table[table["our_model"].notna() & table["model"].isin(published)].reset_index(drop=True)
    rows = rows.assign(published=rows["published_bits_per_dim"].astype(float))
    with style():
        figure = Figure(figsize=(WIDTH, 1.3 + ROW * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        axes.hlines(places, rows["published"], rows["our_bits_per_dim"], color=GREY, linewidth=0.6)
        axes.plot(rows["published"], places, "o", color=ORANGE, markerfacecolor="white", label="published, CIFAR-10 test images")
        ours, error = rows["our_bits_per_dim"], rows["our_standard_error"]
        label = f"ours, {rows['our_measured_on'].iloc[0]}"
        axes.errorbar(ours, places, xerr=error, fmt="o", color=BLUE, capsize=2.5, elinewidth=0.9, markeredgewidth=0, label=label)
        texts = rows["our_bound"].map({"<=": "≤ "}).fillna("") + ours.map("{:.2f}".format)
        for place, value, text in zip(places, ours, texts, strict=True):
            axes.annotate(text, (value, place), (0, 3.5), textcoords="offset points", ha="center", va="bottom", size=SMALL)
        axes.set_yticks(places, rows["model"], color=INK)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.margins(x=0.12)
        axes.set(xlabel="bits/dim")
        axes.set_title(_title(order), loc="left")
        axes.legend(loc="lower right")
        note = f"Ours on {order['images']:.0f} images; a bound with noise is importance-sampled. Bars: standard error = {FORMULA}. "
        note += "Rank correlation: Spearman's, with the 95 % interval from draws of images and seeds."
        footnote(figure, f"{note} Preset {source.preset}.")
        save(figure, "table1", source, rows.drop(columns="published"))


def _title(order: pd.Series[Any]) -> str:
    if pd.isna(order["rank_correlation"]):
        return "Table 1: ours and published"
    interval = f"{order['rank_correlation_low']:.2f}, {order['rank_correlation_high']:.2f}"
    return f"Table 1: rank correlation of ours with published {order['rank_correlation']:.2f} [{interval}]"
