"""Every system that the pipeline trains, by name. Each has its own file and implements `agave.models.interface`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agave.config import Params
    from agave.models.interface import LikelihoodModel

_CLASSES = {
    "agave": "agave.models.agave:AGAVE",
    "vae_iaf": "agave.models.vae_iaf:VAEIAFAlone",
    "pixelcnn_pp": "agave.models.pixelcnn_pp_alone:PixelCNNppAlone",
}


class _Systems(Mapping[str, "type[LikelihoodModel]"]):
    """The classes by name. A class is imported when it is asked for, so that the names alone need no torch."""

    def __getitem__(self, name: str) -> type[LikelihoodModel]:
        module, _, class_name = _CLASSES[name].partition(":")
        found: type[LikelihoodModel] = getattr(importlib.import_module(module), class_name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


SYSTEMS: Mapping[str, type[LikelihoodModel]] = _Systems()


def make_model(system: str, params: Params, image_size: int, **cell: Any) -> LikelihoodModel:
    """Make an untrained model.

    Args:
        system: its name in SYSTEMS.
        params: parameters of a preset, the result of `agave.config.load`.
        image_size: height and width of x, pixels.
        **cell: `resolution` (height and width of y, pixels) and `levels` (colour levels of y), where they are not those of x.

    Raises:
        UserError: there is no such system.
    """
    from agave.errors import UserError

    if system not in SYSTEMS:
        raise UserError(f"there is no system '{system}'; accepted: {', '.join(SYSTEMS)}")
    return SYSTEMS[system].from_options(params.model, image_size, **cell)


def load(path: str | Path) -> LikelihoodModel:
    """Load a trained model: `agave.load`.

    Args:
        path: a model.safetensors of `agave pretrain` or `agave joint`; its metadata say what it is.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        UserError: the file is missing, damaged or of another format.
    """
    from agave.models.files import load_model

    return load_model(Path(path))
