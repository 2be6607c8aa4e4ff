"""How all figures look, and how they are saved so that identical inputs give identical bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from agave.csv_tables import write_table
from agave.files import atomic_write
from agave.results import Results

TEXT = 8.0  # points
SMALL = 7.0
WIDTH = 6.5  # inches: the text width of a page
INK = "#222222"
GREY = "#666666"

_COLORS = [entry["color"] for entry in matplotlib.style.library["seaborn-v0_8-colorblind"]["axes.prop_cycle"]]
BLUE, GREEN, ORANGE, PINK, _, SKY = _COLORS

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
    "font.size": TEXT,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": TEXT,
    "axes.titlesize": TEXT,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "agave",
}


@contextmanager
def style() -> Iterator[None]:
    """The settings of all figures, for the time of drawing and saving one."""
    with mpl.rc_context():
        mpl.rcdefaults()  # nothing from the user's own settings
        mpl.rcParams.update(_RC)
        yield


@cache
def text_width(text: str, size: float) -> float:
    """Width of a line of text, inches."""
    if not text:
        return 0.0
    horizontal = TextPath((0, 0), text, prop=FontProperties(family=_RC["font.family"], size=size)).vertices[:, 0]
    return float(horizontal.max() - horizontal.min()) / 72  # 72 points an inch


def wrap(text: str, width: float, size: float) -> list[str]:
    """Break a text into lines of at most `width` inches."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def save(figure: Figure, name: str, source: Results, data: Sequence[Mapping[str, str]] | Mapping[str, NDArray[np.uint8]]) -> None:
    """Write figures/figureNAME.pdf, .png and the data behind it: rows as .csv, arrays as .npz.

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
