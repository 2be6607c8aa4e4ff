"""The grid of trained models. One cell is one model; its name is its folder under results/."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agave.config import Params, Training
from agave.errors import UserError
from agave.models import REGISTRY

KINDS = {"vae_iaf": "vae"}
"""The kinds of cells by system, where the names differ."""


@dataclass(frozen=True)
class Cell:
    """One trained model: AGAVE with a KL weight and an auxiliary image, a baseline of Figure 1, or a further system of Table 1.

    Attributes:
        kind: "agave" (both networks), "vae" (the VAE alone), "pixelcnn_pp" (the unconditional PixelCNN++ alone), or the name of a
            further system of Table 1.
        kl_weight: the paper's lambda (agave and vae).
        levels: colour levels b of the auxiliary image y (agave and vae).
        resolution: height and width of y, pixels (agave and vae).
        auxiliary: whether log p(y|z) is part of the objective (agave).
    """

    kind: str = "agave"
    kl_weight: float = 1.0
    levels: int = 256
    resolution: int = 32
    auxiliary: bool = True

    @property
    def name(self) -> str:
        """Return the folder name, without characters that a shell would change."""
        if self.kind != "agave":
            return self.kind
        weight = f"{self.kl_weight:.6f}".rstrip("0").rstrip(".")  # never 1e-05: "-" separates the parts
        end = "" if self.auxiliary else "-auxiliary~none"
        return f"kl_weight~{weight}-levels~{self.levels}-resolution~{self.resolution}{end}"

    @property
    def system(self) -> str:
        """Return the name of its system in `agave.models.SYSTEMS`."""
        return "vae_iaf" if self.kind == "vae" else self.kind

    @property
    def has_samples(self) -> bool:
        """Return whether its value depends on noise, so that importance sampling gives a tighter bound."""
        return REGISTRY[self.system].has_samples

    @property
    def has_vae(self) -> bool:
        """Return whether the model has the VAE."""
        return self.kind in ("agave", "vae")

    @property
    def has_pixelcnn_pp(self) -> bool:
        """Return whether the model has the PixelCNN++."""
        return self.kind in ("agave", "pixelcnn_pp")

    @property
    def models_x(self) -> bool:
        """Return whether the model has a likelihood of x itself, and not of y alone."""
        return self.kind != "vae"


def system_of(name: str) -> str:
    """Return the system of a cell by its name, or of the network of a pretraining."""
    return name if name in REGISTRY else "vae_iaf" if name.split("-")[0] == "vae" else "agave"


ALONE = ("vae", *(name for name in REGISTRY if name not in ("agave", "vae_iaf")))
"""The cells that are named like their kind."""

NAME_PATTERN = "|".join(ALONE) + r"|kl_weight~[0-9]+(?:[.][0-9]+)?-levels~[0-9]+-resolution~[0-9]+(?:-auxiliary~none)?"


def parse_cell(name: str, image_size: int, vae_kl_weight: float = 1.0) -> Cell:
    """Return the cell of a name, the inverse of `Cell.name`.

    Args:
        name: a cell name, for example "kl_weight~8-levels~256-resolution~32".
        image_size: height and width of x, pixels: the resolution of the baseline "vae".
        vae_kl_weight: the KL weight of the baseline "vae".

    Raises:
        UserError: no cell has this name.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise UserError(
            f"'{name}' is not a cell name; accepted: {', '.join(ALONE)}, or kl_weight~W-levels~B-resolution~R, "
            "with -auxiliary~none at the end for the model without the auxiliary loss"
        )
    if name == "vae":
        return Cell("vae", kl_weight=vae_kl_weight, resolution=image_size)
    if name in ALONE:
        return Cell(name, resolution=image_size)
    values = dict(part.split("~") for part in name.split("-"))
    cell = Cell(
        kl_weight=float(values["kl_weight"]),
        levels=int(values["levels"]),
        resolution=int(values["resolution"]),
        auxiliary="auxiliary" not in values,
    )
    if cell.levels < 2 or 256 % cell.levels:
        raise UserError(f"{name}: levels {cell.levels} does not divide 256; accepted: 2, 4, 8, 16, 32, 64, 128, 256")
    check_resolution(cell.resolution, image_size)
    return cell


def check_resolution(resolution: int, image_size: int) -> None:
    """Raise UserError unless y can have this resolution for x of this size (pixels)."""
    if resolution not in (image_size, image_size // 2, image_size // 4):
        raise UserError(f"resolution {resolution}; accepted: {image_size}, {image_size // 2} or {image_size // 4}")


def baselines(params: Params) -> list[Cell]:
    """Return the VAE alone and the PixelCNN++ alone (Figure 1 a and b, Table 1)."""
    # PAPER: The paper quotes the baselines from their papers. Here they are trained like the joint models, from the same
    # pretrained weights for the same number of further steps, so that differences are not due to training time.
    size = params.prepare.image_size
    return [Cell("vae", kl_weight=params.pretrain.vae_kl_weight, resolution=size), Cell("pixelcnn_pp", resolution=size)]


def kl_weight_cells(params: Params) -> list[Cell]:
    """Return the cells of Figures 3 and 4: y = x, one per KL weight, in rising order."""
    return [Cell(kl_weight=weight, resolution=params.prepare.image_size) for weight in sorted(params.grid.kl_weights)]


def levels_cells(params: Params) -> list[Cell]:
    """Return the cells of Figure 5: one per number of colour levels, finest first."""
    weight, size = params.grid.levels_kl_weight, params.prepare.image_size
    return [Cell(kl_weight=weight, levels=levels, resolution=size) for levels in sorted(params.grid.levels, reverse=True)]


def resolution_cells(params: Params) -> list[Cell]:
    """Return the cells of Figure 6 (c, d): one per reduced resolution, largest first."""
    cells = [Cell(kl_weight=cell.kl_weight, resolution=cell.resolution) for cell in params.grid.resolutions]
    return sorted(cells, key=lambda cell: (-cell.resolution, cell.kl_weight))


def without_auxiliary_cells(params: Params) -> list[Cell]:
    """Return the cell without the auxiliary loss, if the grid has one."""
    weight = params.grid.without_auxiliary_kl_weight
    return [] if weight is None else [Cell(kl_weight=weight, resolution=params.prepare.image_size, auxiliary=False)]


def further_cells(params: Params) -> list[Cell]:
    """Return the cells of the further systems of Table 1, in the order of the parameters."""
    return [Cell(name, resolution=params.prepare.image_size) for name in params.table1.systems]


def table_1_cells(params: Params) -> dict[str, Cell]:
    """Return the cells that stand beside a row of Table 1 of the paper, by system; AGAVE only at the paper's weight, 12."""
    best = table_cells(params)[1]
    cells = [*baselines(params), *further_cells(params), *([best] if best.kl_weight == 12 else [])]
    return {cell.system: cell for cell in cells}


def training_of(cell: Cell, params: Params) -> Training:
    """Return how a cell is trained to its end: with its pretrained parts, or from new weights for a further system of Table 1."""
    if cell.kind not in params.table1.systems:
        return params.joint
    training, own = params.table1.training, params.table1.sizes(cell.kind)
    if own is None:
        return training
    batch = own.batch or training.batch
    steps = -(-training.steps * training.batch // batch)
    return training.model_copy(update={"steps": steps, "batch": batch, "learning_rate": own.learning_rate or training.learning_rate})


def sampled_cells(params: Params) -> list[Cell]:
    """Return the cells whose importance-sampled bound is measured: those of the paper, and the further systems that have one."""
    return [*table_cells(params), *(cell for cell in further_cells(params) if cell.has_samples)]


def table_cells(params: Params) -> list[Cell]:
    """Return the cells whose importance-sampled bound is in Table 1 or in the text of the paper."""
    best = Cell(kl_weight=params.grid.table_kl_weight, resolution=params.prepare.image_size)
    return [baselines(params)[0], best, *resolution_cells(params)]


def codec_cells(params: Params) -> list[Cell]:
    """Return the cells that compress test images, each once."""
    vae, pixelcnn_pp = baselines(params)
    named = {"pixelcnn_pp": pixelcnn_pp, "table": table_cells(params)[1], "smallest": kl_weight_cells(params)[0], "vae": vae}
    return list(dict.fromkeys(named[name] for name in params.codec.cells))


def mapped_cells(params: Params) -> list[Cell]:
    """Return the cells of which it is shown where on the image the bits go: PixelCNN++ alone and AGAVE of Table 1."""
    return [baselines(params)[1], table_cells(params)[1]]


def all_cells(params: Params) -> list[Cell]:
    """Return every cell of the grid once, baselines first."""
    cells = (
        baselines(params)
        + kl_weight_cells(params)
        + levels_cells(params)
        + resolution_cells(params)
        + without_auxiliary_cells(params)
        + further_cells(params)
    )
    return list(dict.fromkeys(cells))
