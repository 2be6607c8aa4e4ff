"""Small tables as csv: same content, same bytes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agave.files import atomic_write


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as csv, whole or not at all.

    Args:
        path: of the file.
        rows: at least one; columns in the order of the first. None is empty, floats have nine significant digits.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.9g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows)
