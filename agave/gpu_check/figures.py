"""Figures of the report: curves of the trainings, and images per second by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agave.figures.style import WIDTH, style
from agave.files import atomic_write


def draw_learning(results: dict[str, Any], folder: Path) -> str:
    """Draw the loss of each training over its steps; return the name of the file."""
    rows = [row | {"system": system} for system, training in results["trainings"].items() for row in training["history"]]
    with style():
        axes = _axes()
        sns.lineplot(pd.DataFrame(rows), x="step", y="total", hue="system", errorbar=None, ax=axes)
        axes.set(xlabel="step", ylabel="bits/dim")
        return _save(axes, folder, "learning.png")


def draw_speed(results: dict[str, Any], folder: Path) -> str:
    """Draw images per second of training steps by batch, for each system, precision and mode; return the name of the file."""
    frame = pd.DataFrame([row for row in results.get("training", []) if "images_per_second" in row])
    frame["precision"] = frame["precision"] + ", " + frame["mode"]
    with style():
        axes = _axes()
        sns.lineplot(frame, x="batch", y="images_per_second", hue="system", style="precision", markers=True, errorbar=None, ax=axes)
        axes.set(xscale="log", yscale="log", xlabel="images a step", ylabel="images per second")
        return _save(axes, folder, "speed.png")


def _axes() -> Axes:
    return Figure(figsize=(WIDTH, 0.6 * WIDTH), layout="constrained").subplots()


def _save(axes: Axes, folder: Path, name: str) -> str:
    with atomic_write(folder / name) as temporary:
        axes.get_figure().savefig(temporary, dpi=150, format="png")  # type: ignore[union-attr]
    return name
