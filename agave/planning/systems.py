"""The systems with their kinds of bound and their sizes, without torch."""

from __future__ import annotations

from agave.config import Params
from agave.grid import KINDS, Cell
from agave.models import REGISTRY
from agave.planning.network_costs import parameters


def table(params: Params) -> str:
    """Return the systems as text for a terminal: name, kind of bound, trainable numbers at the sizes of a preset, what it is."""
    rows = [("system", "bound", "parameters", "")]
    for name, system in REGISTRY.items():
        count = sum(parameters(params, Cell(KINDS.get(name, name), resolution=params.prepare.image_size)).values())
        rows.append((name, system.bound, f"{count:,}" if count else "not counted", system.about))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join(lines) + "\n"
