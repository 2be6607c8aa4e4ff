"""Figure codec: real files beside the likelihoods they should be as long as, and beside common image formats."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from agave.figures.style import BLUE, GREY, INK, ORANGE, SMALL, WIDTH, footnote, save, style
from agave.results import CODEC_TABLE, Results
from agave.schemas import CODEC_TABLE_SCHEMA

ROW = 0.3  # inches


def draw(source: Results) -> None:
    """Draw the coders of tables/codec.csv, the longest file first: the files of models, and image formats in their two ways.

    Raises:
        UserError: the table is missing or damaged.
    """
    table = source.table(CODEC_TABLE, CODEC_TABLE_SCHEMA)
    size = table["file_bits_per_dim"].fillna(table["one_picture_bits_per_dim"])
    rows = table.assign(bits_per_dim=size).sort_values("bits_per_dim", ascending=False, kind="stable").reset_index(drop=True)
    with style():
        figure = Figure(figsize=(WIDTH, 1.4 + ROW * len(rows)), layout="constrained")
        axes = figure.subplots()
        for model, colour, label in (
            (True, BLUE, "model: one file of all images"),
            (False, ORANGE, "image format: all images as one picture"),
        ):
            chosen = rows[rows["cell"].notna() == model]
            if len(chosen):
                axes.plot(chosen["bits_per_dim"], chosen.index, "o", color=colour, markersize=6, label=label)
        axes.plot(rows["one_file_each_bits_per_dim"], rows.index, "o", color=ORANGE, markerfacecolor="white", label="one file an image")
        axes.plot(rows["bound_bits_per_dim"], rows.index, "|", color=INK, markersize=13, label="likelihood or bound that was reported")
        for place, row in rows.iterrows():
            axes.annotate(
                _text(row), (row["bits_per_dim"], place), (0, 5.5), textcoords="offset points", ha="center", va="bottom", size=SMALL
            )
        axes.hlines(rows.index, rows["bits_per_dim"], rows["one_file_each_bits_per_dim"], color=GREY, linewidth=0.6, zorder=0)
        axes.set_yticks(rows.index, rows["coder"], color=INK)
        axes.set_ylim(len(rows) - 0.6, -0.9)
        axes.grid(False, axis="y")
        axes.margins(x=0.1)
        axes.set(xlabel="bits/dim")
        axes.set_title("Compressed files, decoded exactly", loc="left")
        figure.legend(loc="outside upper center", ncols=2)
        images = f"The first {rows['images'].iloc[0]} images of {rows['data_set'].iloc[0]}."
        note = (
            "Percentages: file over what was reported, header and checksums included. The model is not counted, and the image formats know"
        )
        footnote(figure, f"{images} {note} nothing of these images. Preset {source.preset}.")
        save(figure, "codec", source, rows)


def _text(row: pd.Series) -> str:
    value = f"{row['bits_per_dim']:.3f}"
    return value if pd.isna(row["overhead_percent"]) else f"{value} ({row['overhead_percent']:+.2f} %)".replace("-", "−")
