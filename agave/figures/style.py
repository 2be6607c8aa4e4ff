"""The look of all figures, and how they are saved so that the same inputs give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from agave.csv_tables import write_table
from agave.files import atomic_write
from agave.results import Results

if TYPE_CHECKING:
    import pandas as pd

FONT = "DejaVu Sans"  # ships with matplotlib: the same glyphs everywhere
TEXT = 8.0  # points
SMALL = 7.0
WIDTH = 6.5  # inches: the text width of a page
INK = "#222222"
GREY = "#666666"
BLUE, _, GREEN, ORANGE, PINK, _, _, _, _, SKY = sns.color_palette("colorblind").as_hex()

_RC: dict[str, Any] = {
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # text stays text
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the settings of all figures while one is drawn and saved; the user's own settings are ignored."""
    with mpl.rc_context():
        mpl.rcdefaults()
        sns.set_theme(context="paper", style="ticks", palette="colorblind", font=FONT, font_scale=TEXT / 9.6, rc=_RC)  # "paper": 9.6 points
        yield


@cache
def text_width(text: str, size: float) -> float:
    """Return the width of a line of text of this size (points), in inches."""
    if not text:
        return 0.0
    horizontal = TextPath((0, 0), text, prop=FontProperties(family=FONT, size=size)).vertices[:, 0]
    return float(horizontal.max() - horizontal.min()) / 72  # 72 points an inch


def wrap(text: str, width: float, size: float) -> list[str]:
    """Break a text of this size (points) into lines of at most `width` inches."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def footnote(figure: Figure, text: str) -> None:
    """Write a text below a figure, wrapped to its width."""
    lines = wrap(text, 0.97 * figure.get_figwidth(), SMALL)
    figure.supxlabel("\n".join(lines), size=SMALL, color=GREY, x=0.01, ha="left")


def save(figure: Figure, name: str, source: Results, data: pd.DataFrame | Mapping[str, NDArray[Any]]) -> None:
    """Write figures/figureNAME.pdf and .png with the data behind them: a frame as .csv, arrays as .npz.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    stem = source.folder / "figures" / f"figure{name}"
    if isinstance(data, Mapping):
        with atomic_write(stem.with_suffix(".npz")) as temporary:
            np.savez_compressed(temporary, **dict(data))  # type: ignore[arg-type]
    else:
        write_table(stem.with_suffix(".csv"), data)
    with atomic_write(stem.with_suffix(".pdf")) as temporary:
        figure.savefig(temporary, metadata={"CreationDate": None})
    with atomic_write(stem.with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=source.params.figures.dpi)
