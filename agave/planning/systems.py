"""The systems with their kinds of bound and their sizes, without torch. A test compares the list with `agave.models.SYSTEMS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agave.config import Params
from agave.grid import Cell, Kind
from agave.planning.network_costs import parameters


@dataclass(frozen=True)
class System:
    """A kind of model.

    Attributes:
        kind: kind of its cells in the grid.
        bound: "exact" if the likelihood itself is computed, "elbo" if it is bounded from below.
        about: a full sentence that says what it is.
    """

    kind: Kind
    bound: Literal["exact", "elbo"]
    about: str


SYSTEMS = {
    "agave": System("agave", "elbo", "The VAE and a PixelCNN++ conditioned on it, trained together (Lucas & Verbeek 2017)."),
    "vae_iaf": System("vae", "elbo", "The ResNet VAE with inverse autoregressive flow alone (Kingma et al. 2016)."),
    "pixelcnn_pp": System("pixelcnn_pp", "exact", "PixelCNN++ alone (Salimans et al. 2017)."),
}


def table(params: Params) -> str:
    """Return the systems as text for a terminal: name, kind of bound, trainable numbers at the sizes of a preset, what it is."""
    rows = [("system", "bound", "parameters", "")]
    for name, system in SYSTEMS.items():
        count = sum(parameters(params, Cell(system.kind, resolution=params.prepare.image_size)).values())
        rows.append((name, system.bound, f"{count:,}", system.about))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join(lines) + "\n"
