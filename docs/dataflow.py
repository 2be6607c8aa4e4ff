"""Draw the steps of the workflow and what each reads as docs/dataflow.svg: `python docs/dataflow.py`.

The steps are those of the project (`agave.steps.STEPS`); one that is not described here is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from deviations import ROOT

from agave.steps import STEPS as NAMES

WIDTH, HEIGHT, GAP = 256, 84, 48
INPUT, NETWORK, RESULT = ("#fdf0cf", "#b98a1c"), ("#dbe7f8", "#3d6ea8"), ("#dff1df", "#478a4a")


@dataclass(frozen=True)
class Step:
    """A step of the workflow.

    Attributes:
        reads: the steps whose results it reads.
        does: what it does, in a few words.
        writes: its main files, as they are named in its folder.
        place: column (0 to 2; a half is between two) and row.
        colours: fill and frame of the box.
    """

    reads: tuple[str, ...]
    does: str
    writes: str
    place: tuple[float, int]
    colours: tuple[str, str]


STEPS = {
    "prepare": Step((), "images verified, split, hashed", "train.npy test.npy manifest.json", (1, 1), INPUT),
    "pretrain": Step(("prepare",), "VAE and PixelCNN++, side by side", "model.safetensors history.csv", (1, 2), NETWORK),
    "joint": Step(("prepare", "pretrain"), "Eq. 7: one job a cell and seed", "model.safetensors history.csv", (1, 3), NETWORK),
    "trainings": Step(("pretrain", "joint"), "all training curves and records", "history.csv runs.jsonl", (0, 4), RESULT),
    "evaluate": Step(("prepare", "joint"), "bounds, bits/dim", "bound.csv iwae.csv per_image.npz", (1, 4), NETWORK),
    "sample": Step(("prepare", "joint"), "samples, and measures of them", "shown.npz measures.npz", (2, 4), NETWORK),
    "codec": Step(("prepare", "joint", "evaluate"), "test images as real files", "images.agv codec.csv", (1, 5), NETWORK),
    "formats": Step(("prepare",), "the same images as PNG, WebP, ...", "formats.csv", (2, 3), RESULT),
    "tables": Step(("trainings", "evaluate", "codec", "formats"), "bounds, Table 1, file sizes", "table1.md codec.md", (1, 6), RESULT),
    "figures": Step(("trainings", "evaluate", "sample", "tables"), "Figures 1 to 6 and more", "figure4.png .pdf .csv", (0.5, 7), RESULT),
    "claims": Step(
        ("evaluate", "sample", "codec", "tables"), "a verdict on each claim", "claims.csv claims.md power.csv", (1.5, 7), RESULT
    ),
    "records": Step(
        ("prepare", "trainings", "evaluate", "sample", "codec", "formats", "tables", "figures", "claims"),
        "cost of each step, sums of all files",
        "compute.md SHA256SUMS",
        (1, 8),
        RESULT,
    ),
    "page": Step(("prepare", "trainings", "tables", "figures", "claims", "records"), "the paper, reproduced", "index.html", (1, 9), RESULT),
    "report": Step(("figures", "claims", "records", "page"), "provenance (make report)", "reports/<preset>.html", (1, 10), RESULT),
}
INPUTS = {
    "images": ("CIFAR-10, photographs or yours", (0.5, 0), "prepare"),
    "params.yaml": ("every number; decides what runs", (1.5, 0), "prepare"),
}


def steps() -> dict[str, Step]:
    """Return the steps of the project, in data-flow order.

    Raises:
        KeyError: a step of the project is not described here.
    """
    missing = set(NAMES) - STEPS.keys()
    if missing:
        raise KeyError(f"docs/dataflow.py describes no step {', '.join(sorted(missing))}")
    return {name: STEPS[name] for name in NAMES}


def arrows(known: dict[str, Step]) -> list[tuple[str, str]]:
    """Return the arrows as (from, to), without those that other arrows already imply."""

    def before(name: str) -> set[str]:
        return {earlier for read in known[name].reads for earlier in {read, *before(read)}}

    return [(read, name) for name, step in known.items() for read in step.reads if not any(read in before(other) for other in step.reads)]


def corner(place: tuple[float, int]) -> tuple[float, float]:
    """Return the left and top edge of the box at a place."""
    return 8 + place[0] * (WIDTH + 24), 8 + place[1] * (HEIGHT + GAP)


def box(name: str, lines: list[str], place: tuple[float, int], colours: tuple[str, str]) -> str:
    """Return a box with its name, what it does, and its files."""
    left, top = corner(place)
    top += 0 if len(lines) > 1 else 22
    middle = left + WIDTH / 2
    texts = [f'<text class="name" x="{middle:g}" y="{top + 26:g}">{escape(name)}</text>']
    texts += [
        f'<text class="{kind}" x="{middle:g}" y="{top + offset:g}">{escape(line)}</text>'
        for kind, offset, line in zip(("does", "file"), (47, 68), lines, strict=False)
    ]
    low = HEIGHT if len(lines) > 1 else HEIGHT - 22  # without files: less high, and nearer to what follows
    style = f"fill:{colours[0]};stroke:{colours[1]}"
    return f'<rect x="{left:g}" y="{top:g}" width="{WIDTH}" height="{low}" rx="8" style="{style}"/>' + "".join(texts)


def arrow(start: tuple[float, int], end: tuple[float, int]) -> str:
    """Return an arrow from the bottom of a box to the top of one further down: straight, and bent in the last gap between rows."""
    (left, top), (end_left, end_top) = corner(start), corner(end)
    shift = max(-70.0, min(70.0, (end_left - left) / 4))
    x, end_x = left + WIDTH / 2 + shift, end_left + WIDTH / 2 - shift
    bend, tip = end_top - GAP, end_top - 2
    middle = (bend + tip) / 2
    return f'<path class="arrow" d="M{x:g} {top + HEIGHT:g}V{bend:g}C{x:g} {middle:g} {end_x:g} {middle:g} {end_x:g} {tip:g}"/>'


def picture() -> str:
    """Return the SVG file. Boxes are light, text in them dark and arrows grey, so that it can be read on a white and on a dark page."""
    known = steps()
    rows = max(step.place[1] for step in known.values()) + 1
    width, height = corner((3, rows))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 20 {width - 16:g} {height - GAP - 12:g}" role="img">',
        f"<title>The steps of the workflow: {', '.join(known)}</title>",
        "<style>text{font-family:system-ui,sans-serif;text-anchor:middle;fill:#1c1c1c}.name{font-size:17px;font-weight:bold}"
        ".does{font-size:13px}.file{font-size:11.5px;font-family:ui-monospace,monospace}rect{stroke-width:1.5}"
        ".arrow{fill:none;stroke:#808080;stroke-width:2;marker-end:url(#head)}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#808080"/></marker></defs>',
    ]
    parts += [arrow(place, known[step].place) for _, place, step in INPUTS.values()]
    parts += [arrow(known[start].place, known[end].place) for start, end in arrows(known)]
    parts += [box(name, [text], place, INPUT) for name, (text, place, _) in INPUTS.items()]
    parts += [box(name, [step.does, step.writes], step.place, step.colours) for name, step in known.items()]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "dataflow.svg").write_text(picture())
