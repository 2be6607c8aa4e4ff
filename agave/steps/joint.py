"""The step `joint`: train a model of the grid from pretrained weights (Eq. 7), or a further system of Table 1 from new ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agave.config import Params
from agave.errors import UserError
from agave.grid import Cell, training_of
from agave.models import SYSTEMS
from agave.runtime.devices import Place
from agave.training.job import TrainingJob


def run(params: Params, cell: Cell, seed: int, data: Path, pretrained: Mapping[str, Path | None], output: Path, place: Place) -> None:
    """Train a cell from the prepared images and pretrained networks, and write its weights.

    Args:
        params: parameters of the preset.
        cell: the model; a baseline continues to train its one network.
        seed: seed of data order and noise.
        data: folder of `agave prepare`.
        pretrained: files of pretrained weights by part of the model; those of parts that the cell lacks are ignored.
        output: folder for model.safetensors (averaged weights), raw.safetensors, history.csv and run.json.
        place: device and limits of the training.

    Raises:
        UserError: bad input, or no GPU where the preset wants one.
        InterruptedWorkError: stopped early with the state saved.
    """
    files: dict[str, Path] = {}
    for part in SYSTEMS[cell.system].parts:
        path = pretrained.get(part)
        if path is None:
            option = part.replace("_", "-")
            raise UserError(f"{cell.name}: needs pretrained weights; give --{option} FILE, made by `agave pretrain {part}`")
        files[part] = path
    TrainingJob("joint", params, cell, training_of(cell, params), seed, data, output, place, files).run()
