"""Read and describe trained models on disk: model.safetensors, whose metadata identify the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agave.config import Model, Params, Table1
from agave.errors import UserError
from agave.grid import Cell
from agave.models import SYSTEMS, make_model, options_of
from agave.models.interface import LikelihoodModel
from agave.runtime.checkpoints import load_weights, read_metadata, read_tensors

FORMAT = "agave-model-2"
"""Format 1 called PixelCNN++ `pixelcnn` and did not name the system."""


def describe_model(cell: Cell, params: Params) -> dict[str, Any]:
    """Return the metadata from which `load_model` makes a model of a cell."""
    return {
        "format": FORMAT,
        "system": cell.system,
        "cell": cell.name,
        "image_size": params.prepare.image_size,
        "resolution": cell.resolution,
        "levels": cell.levels,
        "model": options_of(cell.system, params),
    }


def load_model(path: Path) -> LikelihoodModel:
    """Return a trained model in evaluation mode, built from the metadata of its file.

    Raises:
        UserError: the file is missing, damaged or of another format.
    """
    metadata = read_model_metadata(path)
    try:
        system, stored = metadata["system"], dict(metadata["model"])
        own = {system: stored.pop(system)} if system in Table1.model_fields else {}
        model = SYSTEMS[system].from_options(
            Model.model_validate(stored),
            metadata["image_size"],
            resolution=metadata["resolution"],
            levels=metadata["levels"],
            sizes=Table1.model_validate(own).sizes(system),
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its metadata describe no model of this version ({error}); accepted: {FORMAT}") from None
    load_weights(model, read_tensors(path), path)
    return model.eval()


def load_cell(path: Path, params: Params, cell: Cell) -> LikelihoodModel:
    """Return the trained model of a cell, built from the parameters.

    Raises:
        UserError: the file is missing, damaged, of another cell, or of another architecture than the parameters say.
    """
    metadata = read_model_metadata(path)
    if metadata["cell"] != cell.name:
        raise UserError(f"{path}: holds the model of cell {metadata['cell']}; accepted: {cell.name}")
    stored, wanted = metadata["model"], options_of(cell.system, params)
    for key in ("upsampling", "likelihood", "detach_features", *Table1.model_fields):  # what no shape of a weight shows
        if key in wanted and stored[key] != wanted[key]:
            block = "table1" if key in Table1.model_fields else "model"
            raise UserError(f"{path}: trained with {block}.{key} {stored[key]}; accepted: {wanted[key]}, as the parameters say")
    model = make_model(cell.system, params, params.prepare.image_size, resolution=cell.resolution, levels=cell.levels)
    load_weights(model, read_tensors(path), path)
    return model


def read_model_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a model file.

    Raises:
        UserError: the file is missing, damaged or of another format.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: format {metadata.get('format')!r}; accepted: {FORMAT}")
    return metadata
