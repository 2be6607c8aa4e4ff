"""Figure 2: the model and the three terms of its objective, with the sizes of a preset. Boxes and arrows are data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from agave import grid
from agave.config import Params
from agave.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, SMALL, TEXT, save, style, text_width
from agave.results import Results

PAGE = 6.52, 3.98  # inches
NEUTRAL = "#888888"


@dataclass(frozen=True)
class Box:
    """A part of the model.

    Attributes:
        title: first line.
        lines: its sizes; names in braces are entries of `sizes`.
        color: color of the frame; the box is filled with a light tint of it.
        place: left edge, lower edge, width and height, inches.
        loss: whether it is a term of the objective (dashed frame).
    """

    title: str
    lines: tuple[str, ...]
    color: str
    place: tuple[float, float, float, float]
    loss: bool = False

    def texts(self, values: dict[str, str]) -> tuple[str, ...]:
        """Return all lines with the sizes of a preset; a formula stays as it is."""
        return (self.title, *(line if "$" in line else line.format(**values) for line in self.lines))


@dataclass(frozen=True)
class Arrow:
    """A line with a head at its last point.

    Attributes:
        points: its corners, inches.
        color: color of the line.
        label: text beside it, if any.
        at: where the label stands, inches.
        side: the side of the label that is at this place, "left", "right" or "center".
    """

    points: tuple[tuple[float, float], ...]
    color: str = INK
    label: str = ""
    at: tuple[float, float] = (0, 0)
    side: str = "center"


KL = r"$-\,\lambda\,D_\mathrm{KL}\,(q(z|x)\,||\,p(z))$"
LOG_PROB_X = r"$\mathrm{E}_q\,\Sigma_i\,\ln\,p(x_i\,|\,x_{<i},z)$"
LOG_PROB_Y = r"$\mathrm{E}_q\,\Sigma_j\,\ln\,p(y_j\,|\,z)$"
BOXES = {
    "x": Box("image x", ("{x}×3", "256 levels"), NEUTRAL, (0.06, 1.66, 1.1, 0.78)),
    "encoder": Box("encoder q(z|x)", ("ResNet + IAF", "{layers}", "{hidden} feature maps"), ORANGE, (1.38, 1.66, 1.1, 0.78)),
    "z": Box("latent z", ("prior p(z), learned", "{layers} of", "{latent}"), ORANGE, (2.7, 1.66, 1.1, 0.78)),
    "decoder": Box("VAE decoder", ("top-down ResNet", "{layers}", "{hidden} feature maps"), ORANGE, (4.02, 1.66, 1.1, 0.78)),
    "f": Box("f(z)", ("means of the pixels", "{y}"), ORANGE, (5.34, 1.66, 1.1, 0.78)),
    "y": Box("auxiliary image y", ("{y}", "{levels} levels"), NEUTRAL, (0.06, 2.98, 1.62, 0.78)),
    "kl": Box("regularization", (KL,), GREEN, (1.96, 2.86, 1.62, 0.52), loss=True),
    "auxiliary": Box("auxiliary reconstruction", (LOG_PROB_Y, "logistic, 3 scales"), PINK, (4.82, 2.98, 1.62, 0.78), loss=True),
    "stream": Box(
        "feature stream", ("non-masked convolutions", "{blocks} layers", "{stream} feature maps"), BLUE, (5.12, 0.32, 1.32, 0.78)
    ),
    "pixelcnn_pp": Box(
        "conditional PixelCNN++",
        ("2 streams of {blocks} gated blocks", "{filters} feature maps", "{scales}"),
        BLUE,
        (2.36, 0.32, 1.96, 0.78),
    ),
    "primary": Box("primary reconstruction", (LOG_PROB_X, "mixture of {mixtures} logistics"), BLUE, (0.06, 0.32, 1.62, 0.78), loss=True),
}
ARROWS = (
    Arrow(((1.16, 2.05), (1.38, 2.05))),
    Arrow(((2.48, 2.05), (2.7, 2.05))),
    Arrow(((3.8, 2.05), (4.02, 2.05))),
    Arrow(((5.12, 2.05), (5.34, 2.05))),
    Arrow(((5.12, 0.71), (4.32, 0.71)), BLUE, "to every\ngated block", (4.72, 0.71)),
    Arrow(((2.36, 0.71), (1.68, 0.71)), BLUE),
    Arrow(((0.46, 2.44), (0.46, 2.98)), INK, "box average, quantize", (0.52, 2.71), "left"),
    Arrow(((0.46, 1.66), (0.46, 1.1)), INK, "target", (0.4, 1.38), "right"),
    # teacher forcing, between the two rows
    Arrow(((0.86, 1.66), (0.86, 1.38), (3.34, 1.38), (3.34, 1.1)), INK, "$x_{<i}$ (when sampling: its own pixels)", (2.1, 1.48)),
    Arrow(((2.26, 2.44), (2.26, 2.86)), GREEN, "q(z|x)", (2.31, 2.65), "left"),
    Arrow(((3.25, 2.44), (3.25, 2.86)), GREEN, "p(z)", (3.3, 2.65), "left"),
    Arrow(((1.68, 3.68), (4.82, 3.68)), INK, "target", (2.77, 3.78)),
    Arrow(((5.89, 2.44), (5.89, 2.98)), PINK, "p(y|z)", (5.95, 2.71), "left"),
    Arrow(((5.89, 1.66), (5.89, 1.1)), BLUE, "enlarged to the size of x", (5.83, 1.38), "right"),
)


def sizes(params: Params) -> dict[str, str]:
    """Return the sizes of a preset that the boxes show, as text."""
    size, vae, network = params.prepare.image_size, params.model.vae, params.model.pixelcnn_pp
    targets = [cell for cell in grid.all_cells(params) if cell.kind == "agave" and cell.auxiliary]
    layers = f"{vae.blocks} layer{'s' if vae.blocks > 1 else ''}{' per scale' if vae.depth > 1 else ''}"
    return {
        "x": _squares([size]),
        "y": _squares(sorted({cell.resolution for cell in targets}, reverse=True)),
        "levels": _listed([str(levels) for levels in sorted({cell.levels for cell in targets}, reverse=True)]),
        "layers": layers,
        "hidden": str(vae.hidden),
        "latent": f"{_squares([size // 2 ** (scale + 1) for scale in range(vae.depth)])}×{vae.latent}",
        # Salimans et al. (2017): R blocks per resolution on the way up; R at the coarsest and R + 1 at each other one on the way down
        "blocks": str(2 * network.resnets * network.resolutions + network.resolutions - 1),
        "stream": str(network.stream_channels),
        "filters": str(network.filters),
        "scales": _squares([size // 2**scale for scale in range(network.resolutions)]),
        "mixtures": str(network.mixtures),
    }


def draw(source: Results) -> None:
    """Draw Figure 2.

    Raises:
        UserError: the figure cannot be written.
    """
    texts = {name: box.texts(sizes(source.params)) for name, box in BOXES.items()}
    with style():
        figure = Figure(figsize=PAGE)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, PAGE[0]), ylim=(0, PAGE[1]))
        axes.set_axis_off()
        for name, box in BOXES.items():
            _draw_box(axes, box, texts[name])
        for arrow in ARROWS:
            _draw_arrow(axes, arrow)
        note = f"Solid frames: the model. Dashed frames: the terms of the objective, Eq. 7. Sizes of the preset {source.preset}."
        axes.text(0.06, 0.08, note, size=SMALL, color=GREY)
        rows = [(BOXES[name].title, i, line) for name, lines in texts.items() for i, line in enumerate(lines)]
        save(figure, "2", source, pd.DataFrame(rows, columns=["box", "line", "text"]))


def _squares(sides: Sequence[int]) -> str:
    return _listed([f"{side}×{side}" for side in sides])


def _listed(values: Sequence[str]) -> str:
    """Return all values if there are at most three, otherwise the first and the last."""
    return ", ".join(values) if len(values) <= 3 else f"{values[0]} … {values[-1]}"


def _draw_box(axes: Axes, box: Box, lines: Sequence[str]) -> None:
    left, bottom, width, height = box.place
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor="white" if box.loss else (box.color, 0.13),
            edgecolor=box.color,
            linewidth=1.2,
            linestyle="--" if box.loss else "-",
        )
    )
    step = 0.165  # inches from line to line
    for index, line in enumerate(lines):
        size = SMALL if index else TEXT
        while text_width(line, size) > width - 0.06 and size > 5.5:
            size -= 0.25
        y = bottom + height / 2 + step * ((len(lines) - 1) / 2 - index)
        axes.text(left + width / 2, y, line, size=size, color=GREY if index and not box.loss else INK, ha="center", va="center")


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    *before, last, end = arrow.points
    axes.plot(*zip(*before, last, strict=True), color=arrow.color, linewidth=1.1)
    head = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 1, "color": arrow.color, "linewidth": 1.1}
    axes.annotate("", end, last, arrowprops=head)
    axes.text(*arrow.at, arrow.label, size=SMALL, color=GREY, ha=arrow.side, va="center", linespacing=2)
