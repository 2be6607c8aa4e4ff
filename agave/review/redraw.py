"""Make tables, figures, claims and the page again from the small files in git, and find those that differ."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from agave import claims, figures, tables
from agave.config import Params
from agave.page.document import write_page
from agave.page.files import PAGE
from agave.results import CLAIMS, CLAIMS_PAGE, POWER
from agave.runtime.progress import Progress

SOURCES = ("prepare", "trainings", "evaluate", "sample", "codec", "formats")  # what is drawn from; the rest of the folder is drawn

# Rounding differs between CPUs and libraries: the numbers of a csv or json file may differ by this much, and the pixels of a
# figure by one level of 256 in the mean.
RELATIVE, ABSOLUTE = 1e-5, 1e-9
MEAN_LEVELS = 1.0


def redraw(params: Params, preset: str, results: Path, to: Path, claims_file: Path) -> list[claims.Decision]:
    """Write every table, figure and claim of `results` below another folder, which is given links to what they are drawn from.

    The page shows what lies in `results`, also where a table or figure comes out differently now.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.
        to: an empty folder.
        claims_file: claims.yaml.

    Returns:
        The claims as decided now.

    Raises:
        UserError: a file that a table or figure needs is missing or damaged.
    """
    for name in SOURCES:
        (to / name).symlink_to((results / name).resolve(), target_is_directory=True)
    with Progress(len(figures.NAMES) + 3, "redraw", "file") as progress:
        tables.write_tables(params, preset, to)
        progress.update(1, "tables")
        for name in figures.NAMES:
            figures.draw(name, params, preset, to)
            progress.update(1, f"figure {name}")
        decisions = claims.write_claims(params, preset, to, claims_file)
        progress.update(1, "claims")
        write_page(params, preset, results, claims_file, to)
        progress.update(1, "page")
    return decisions


def drawn() -> list[str]:
    """Return the files that `redraw` writes, relative to results/<preset>/."""
    return [
        *(f"tables/{name}" for name in tables.FILES),
        *(path for name in figures.NAMES for path in figures.outputs(name)),
        CLAIMS,
        CLAIMS_PAGE,
        POWER,
        PAGE,
    ]


def differences(results: Path, again: Path) -> Iterator[tuple[str, str]]:
    """Find files that came out differently. A PDF that differs is judged by the PNG of the same figure.

    Args:
        results: results/<preset>.
        again: the folder that `redraw` wrote to.

    Yields:
        (path, how the two files differ).
    """
    for path in drawn():
        old, new = results / path, again / path
        if not old.is_file():
            yield path, "missing"
        elif old.read_bytes() != new.read_bytes():
            found = _COMPARED.get(old.suffix, _text)(old, new)
            if found:
                yield path, found


def _text(old: Path, new: Path) -> str:
    return _line(*(file.read_text(encoding="utf-8", errors="replace").splitlines() for file in (old, new)))


def _line(first: list[str], second: list[str]) -> str:
    number = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    return f"line {number + 1} differs"


def _csv(old: Path, new: Path) -> str:
    try:
        return _frames(pd.read_csv(old, encoding="utf-8"), pd.read_csv(new, encoding="utf-8"))
    except ValueError:  # pandas' errors and bytes that are not UTF-8
        return "no table"


def _json(old: Path, new: Path) -> str:
    try:
        first, second = (pd.json_normalize(json.loads(file.read_text(encoding="utf-8"))) for file in (old, new))
    except (ValueError, NotImplementedError):
        return "other content"
    return _frames(first, second)


def _frames(old: pd.DataFrame, new: pd.DataFrame) -> str:
    if old.shape != new.shape:
        return "other rows or columns"
    try:
        pd.testing.assert_frame_equal(old, new, rtol=RELATIVE, atol=ABSOLUTE, check_dtype=False)
    except AssertionError as error:
        lines = str(error).strip().splitlines()  # which column, then both of it, then the first difference
        return f"{lines[0]}: {lines[-1]}"
    return ""


def _npz(old: Path, new: Path) -> str:
    with np.load(old, allow_pickle=False) as first, np.load(new, allow_pickle=False) as second:
        same = sorted(first.files) == sorted(second.files) and all(np.array_equal(first[key], second[key]) for key in first.files)
    return "" if same else "other images"


def _html(old: Path, new: Path) -> str:
    """Compare two pages: their texts, and the pixels of the pictures in them, which another library compresses to other bytes."""
    embedded = re.compile(r'data:image/png;base64,([^"]*)')
    pages = [file.read_text(encoding="utf-8", errors="replace") for file in (old, new)]
    first, second = (embedded.sub("", page).splitlines() for page in pages)
    if first != second:
        return _line(first, second)
    pictures = zip(*map(embedded.findall, pages), strict=False)
    return next(filter(None, (_png(*(io.BytesIO(base64.b64decode(one)) for one in pair)) for pair in pictures)), "")


def _png(old: Path | io.BytesIO, new: Path | io.BytesIO) -> str:
    with Image.open(old) as first, Image.open(new) as second:
        if first.size != second.size:
            return f"{first.size[0]}x{first.size[1]} pixels there, {second.size[0]}x{second.size[1]} now"
        before, now = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (first, second))
    mean = float(np.abs(before - now).mean())
    return "" if mean <= MEAN_LEVELS else f"another picture: {mean:.3g} levels of 256 in the mean"


_COMPARED: dict[str, Callable[[Path, Path], str]] = {
    ".csv": _csv,
    ".json": _json,
    ".npz": _npz,
    ".png": _png,
    ".html": _html,
    ".pdf": lambda old, new: "",
}
