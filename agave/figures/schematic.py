"""Figure 2: the model and the three terms of its objective, drawn from the real parameters of a preset."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from agave import grid
from agave.config import Params
from agave.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, SMALL, TEXT, WIDTH, save, style, text_width
from agave.results import Results

HEIGHT = 3.98  # inches
NEUTRAL = "#888888"


@dataclass(frozen=True)
class Box:
    """A part of the model.

    Attributes:
        title: first line.
        lines: its sizes.
        color: of the frame; the box is filled with a light tint of it.
        left: inches from the left edge of the figure.
        bottom: inches from the lower edge.
        width: inches.
        height: inches.
        loss: whether it is a term of the objective (dashed frame).
    """

    title: str
    lines: tuple[str, ...]
    color: str
    left: float
    bottom: float
    width: float
    height: float
    loss: bool = False

    def at(self, side: str, part: float = 0.5) -> tuple[float, float]:
        """A point on the frame: side "left", "right", "top" or "bottom", at `part` of its length, inches."""
        if side in ("left", "right"):
            return self.left + (self.width if side == "right" else 0), self.bottom + part * self.height
        return self.left + part * self.width, self.bottom + (self.height if side == "top" else 0)


def gated_blocks(params: Params) -> int:
    """Gated blocks of one stream of the PixelCNN, up and down pass.

    Source: Salimans et al. (2017): R per resolution up; R at the coarsest and R + 1 at each other resolution down.
    """
    network = params.model.pixelcnn_pp
    return 2 * network.resnets * network.resolutions + network.resolutions - 1


def boxes(params: Params) -> dict[str, Box]:
    """The parts of the model with the sizes that the preset gives them."""
    size, vae, pixelcnn_pp = params.prepare.image_size, params.model.vae, params.model.pixelcnn_pp
    grids = _listed([f"{size // 2 ** (scale + 1)}×{size // 2 ** (scale + 1)}" for scale in range(vae.depth)])
    per_scale = "" if vae.depth == 1 else " per scale"
    targets = [cell for cell in grid.all_cells(params) if cell.kind == "agave" and cell.auxiliary]
    sizes = _listed([f"{r}×{r}" for r in sorted({cell.resolution for cell in targets}, reverse=True)])
    levels = _listed([str(b) for b in sorted({cell.levels for cell in targets}, reverse=True)])
    blocks = gated_blocks(params)
    scales = _listed([f"{size // 2**i}×{size // 2**i}" for i in range(pixelcnn_pp.resolutions)])
    layers = f"{vae.blocks} layer{'s' if vae.blocks > 1 else ''}{per_scale}"
    column = [0.06 + index * 1.32 for index in range(5)]
    width, top, middle, bottom = 1.1, 2.98, 1.66, 0.32
    return {
        "x": Box("image x", (f"{size}×{size}×3", "256 levels"), NEUTRAL, column[0], middle, width, 0.78),
        "encoder": Box("encoder q(z|x)", ("ResNet + IAF", layers, f"{vae.hidden} feature maps"), ORANGE, column[1], middle, width, 0.78),
        "z": Box(
            "latent z",
            ("prior p(z), learned", f"{layers} of", f"{grids}×{vae.latent}"),
            ORANGE,
            column[2],
            middle,
            width,
            0.78,
        ),
        "decoder": Box("VAE decoder", ("top-down ResNet", layers, f"{vae.hidden} feature maps"), ORANGE, column[3], middle, width, 0.78),
        "f": Box("f(z)", ("means of the pixels", f"{sizes}"), ORANGE, column[4], middle, width, 0.78),
        "y": Box("auxiliary image y", (sizes, f"{levels} levels"), NEUTRAL, column[0], top, 1.62, 0.78),
        "kl": Box(
            "regularization", (r"$-\,\lambda\,D_\mathrm{KL}\,(q(z|x)\,||\,p(z))$",), GREEN, column[1] + 0.58, top - 0.12, 1.62, 0.52, True
        ),
        "auxiliary": Box(
            "auxiliary reconstruction",
            (r"$\mathrm{E}_q\,\Sigma_j\,\ln\,p(y_j\,|\,z)$", "logistic, 3 scales"),
            PINK,
            column[4] + width - 1.62,
            top,
            1.62,
            0.78,
            True,
        ),
        "stream": Box(
            "feature stream",
            ("non-masked convolutions", f"{blocks} layers", f"{pixelcnn_pp.stream_channels} feature maps"),
            BLUE,
            column[4] - 0.22,
            bottom,
            width + 0.22,
            0.78,
        ),
        "pixelcnn_pp": Box(
            "conditional PixelCNN++",
            (f"2 streams of {blocks} gated blocks", f"{pixelcnn_pp.filters} feature maps", scales),
            BLUE,
            column[2] - 0.34,
            bottom,
            1.96,
            0.78,
        ),
        "primary": Box(
            "primary reconstruction",
            (r"$\mathrm{E}_q\,\Sigma_i\,\ln\,p(x_i\,|\,x_{<i},z)$", f"mixture of {pixelcnn_pp.mixtures} logistics"),
            BLUE,
            column[0],
            bottom,
            1.62,
            0.78,
            True,
        ),
    }


def draw(source: Results) -> None:
    """Draw Figure 2.

    Raises:
        UserError: the figure cannot be written.
    """
    parts = boxes(source.params)
    with style():
        figure = Figure(figsize=(WIDTH + 0.02, HEIGHT))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH + 0.02), ylim=(0, HEIGHT))
        axes.set_axis_off()
        for box in parts.values():
            _draw_box(axes, box)
        _draw_arrows(axes, parts)
        axes.text(
            0.06,
            0.08,
            f"Solid frames: the model. Dashed: the terms of the objective, Eq. 7. Sizes: preset {source.preset}.",
            size=SMALL,
            color=GREY,
        )
        rows = [
            {"box": box.title, "line": str(i), "text": line} for box in parts.values() for i, line in enumerate((box.title, *box.lines))
        ]
        save(figure, "2", source, rows)


def _listed(values: Sequence[str]) -> str:
    """All values where there are at most three, else first and last."""
    return ", ".join(values) if len(values) <= 3 else f"{values[0]} … {values[-1]}"


def _draw_box(axes: Axes, box: Box) -> None:
    frame = FancyBboxPatch(
        (box.left, box.bottom),
        box.width,
        box.height,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor="white" if box.loss else _tint(box.color),
        edgecolor=box.color,
        linewidth=1.2,
        linestyle="--" if box.loss else "-",
    )
    axes.add_patch(frame)
    step = 0.165
    first = box.bottom + box.height / 2 + step * len(box.lines) / 2
    for index, line in enumerate((box.title, *box.lines)):
        size = TEXT if index == 0 else SMALL
        while text_width(line, size) > box.width - 0.06 and size > 5.5:
            size -= 0.25
        color = INK if index == 0 or box.loss else GREY
        axes.text(box.left + box.width / 2, first - index * step, line, size=size, color=color, ha="center", va="center")


def _tint(color: str) -> tuple[float, ...]:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return tuple(1 - 0.13 * (1 - part) for part in parts)


def _draw_arrows(axes: Axes, parts: dict[str, Box]) -> None:
    def path(*points: tuple[float, float], color: str = INK) -> None:
        """A line through the points with an arrow head at the last."""
        for start, end in itertools.pairwise(points[:-1]):
            axes.plot([start[0], end[0]], [start[1], end[1]], color=color, linewidth=1.1, solid_capstyle="round")
        arrow = FancyArrowPatch(
            points[-2], points[-1], arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=1, color=color, linewidth=1.1
        )
        axes.add_patch(arrow)

    def label(x: float, y: float, text: str, ha: str = "center") -> None:
        axes.text(x, y, text, size=SMALL, color=GREY, ha=ha, va="center")

    for start, end in (("x", "encoder"), ("encoder", "z"), ("z", "decoder"), ("decoder", "f")):
        path(parts[start].at("right"), parts[end].at("left"))
    path(parts["stream"].at("left"), parts["pixelcnn_pp"].at("right"), color=BLUE)
    path(parts["pixelcnn_pp"].at("left"), parts["primary"].at("right"), color=BLUE)

    x, y, kl, f = parts["x"], parts["y"], parts["kl"], parts["f"]
    lift = x.left + 0.4
    path((lift, x.bottom + x.height), (lift, y.bottom))
    label(lift + 0.06, (x.bottom + x.height + y.bottom) / 2, "box average, quantize", "left")
    path((lift, x.bottom), (lift, parts["primary"].bottom + parts["primary"].height))
    label(lift - 0.06, 1.38, "target", "right")
    feed = x.left + 0.8  # teacher forcing: from x to the PixelCNN, between the two rows
    path((feed, x.bottom), (feed, 1.38), (parts["pixelcnn_pp"].at("top")[0], 1.38), parts["pixelcnn_pp"].at("top"))
    label((feed + parts["pixelcnn_pp"].at("top")[0]) / 2, 1.48, r"$x_{<i}$ (when sampling: its own pixels)")

    for name, part in (("encoder", 0.8), ("z", 0.5)):
        at = parts[name].at("top", part)
        path(at, (at[0], kl.bottom), color=GREEN)
        label(at[0] + 0.05, (at[1] + kl.bottom) / 2, "q(z|x)" if name == "encoder" else "p(z)", "left")
    across = y.bottom + 0.9 * y.height  # above the regularization box
    path((y.left + y.width, across), (parts["auxiliary"].left, across))
    label((kl.left + kl.left + kl.width) / 2, across + 0.1, "target")
    rise = f.left + f.width / 2
    path((rise, f.bottom + f.height), (rise, parts["auxiliary"].bottom), color=PINK)
    label(rise + 0.06, (f.bottom + f.height + parts["auxiliary"].bottom) / 2, "p(y|z)", "left")
    path((rise, f.bottom), (rise, parts["stream"].bottom + parts["stream"].height), color=BLUE)
    label(rise - 0.06, 1.38, "enlarged to the size of x", "right")
    (left, level), (right, _) = parts["pixelcnn_pp"].at("right"), parts["stream"].at("left")
    label((left + right) / 2, level + 0.09, "to every")
    label((left + right) / 2, level - 0.1, "gated block")
