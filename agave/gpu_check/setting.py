"""What all parts of the check are given, and the registry in which systems and other rooms of the package register parts of their own."""

from __future__ import annotations

import copy
import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agave import config
from agave.config import Params
from agave.data.sources import SOURCES
from agave.models import make_model
from agave.models.interface import LikelihoodModel
from agave.runtime.devices import images_to_tensor

Size = Literal["published", "tiny"]

PARTS = {
    "environment": "agave.gpu_check.environment:run",
    "correctness": "agave.gpu_check.correctness:run",
    "speed": "agave.gpu_check.speed:run",
    "learning": "agave.gpu_check.learning:run",
}
"""The parts by name, in their order: each a function of a Setting that returns plain values for json."""

CHECKS = {
    "float64": "agave.gpu_check.correctness:against_float64",
    "importance weights": "agave.gpu_check.correctness:importance_weights",
    "sampler": "agave.gpu_check.correctness:cached_sampler",
    "resumed": "agave.gpu_check.trainings:killed_and_resumed",
    "devices": "agave.gpu_check.trainings:two_devices",
}
"""Checks of the part `correctness` by name: each a function of a Setting that yields `Finding`s. A new room adds its line here."""

MEASUREMENTS = {
    "training": "agave.gpu_check.speed:training_steps",
    "kernels": "agave.gpu_check.speed:longest_kernels",
    "sampling": "agave.gpu_check.speed:sampling",
    "importance": "agave.gpu_check.speed:importance_samples",
}
"""Measurements of the part `speed` by name: each a function of a Setting that yields rows of a table. A new room adds its line here."""

SHARE = {"environment": 0.01, "correctness": 0.3, "speed": 0.45, "learning": 0.24}
"""Shares of the time that the parts may take."""


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        name: what was compared.
        size: "tiny" or "published": sizes of the networks.
        found: the difference, or None where the answer is yes or no.
        tolerance: the largest difference that passes.
        passed: whether it passed.
        note: further facts, a sentence.
    """

    name: str
    size: str
    found: float | None
    tolerance: float | None
    passed: bool
    note: str = ""


@dataclass
class Setting:
    """What is checked, where, and how long it may take.

    Attributes:
        device: where the networks run.
        size: sizes of the networks: those of the preset `paper`, or those of the preset `tiny`.
        params_file: file of the parameters.
        folder: for states of trainings and the like.
        seconds: time for all parts together.
        images: array file or folder of images to learn from; None: the photographs that ship with the packages.
    """

    device: torch.device
    size: Size
    params_file: Path
    folder: Path
    seconds: float = 1200.0
    images: Path | None = None
    _images: dict[Size, Tensor] = field(default_factory=dict, init=False)
    _models: dict[tuple[str, Size], LikelihoodModel] = field(default_factory=dict, init=False)
    _ends: float = field(default=float("inf"), init=False)

    @property
    def on_gpu(self) -> bool:
        """Return whether the networks run on a GPU."""
        return self.device.type == "cuda"

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes of the networks whose values are checked: the small ones always."""
        return ("tiny", "published") if self.size == "published" else ("tiny",)

    def begin(self, part: str) -> None:
        """Start the clock of a part."""
        self._ends = time.monotonic() + self.seconds * SHARE.get(part, 0.1)

    def left(self) -> float:
        """Return the seconds that are left to the part at hand."""
        return self._ends - time.monotonic()

    def params(self, size: Size | None = None) -> Params:
        """Return the parameters of a size, on the device at hand, with images that need no download and with dropout."""
        found = config.load(self.params_file, "tiny" if (size or self.size) == "tiny" else "paper")
        source = {"source": "images", "path": str(self.images)} if self.images else {"source": "photos"}
        pixelcnn_pp = found.model.pixelcnn_pp.model_copy(update={"dropout": 0.5})
        return found.model_copy(
            update={
                "prepare": found.prepare.model_copy(update=source),
                "model": found.model.model_copy(update={"pixelcnn_pp": pixelcnn_pp}),
                "compute": found.compute.model_copy(update={"device": self.device.type}),
            }
        )

    def training_images(self, size: Size | None = None) -> Tensor:
        """Return the images to learn from, uint8 (N, 3, H, W) on the CPU.

        Raises:
            UserError: the images are missing or do not fit.
        """
        wanted = size or self.size
        if wanted not in self._images:
            self._images[wanted] = self._load(wanted)
        return self._images[wanted]

    def _load(self, size: Size) -> Tensor:
        prepare = self.params(size).prepare
        return images_to_tensor(np.ascontiguousarray(SOURCES[prepare.source](prepare).train), torch.device("cpu"))

    def model(self, system: str, size: Size | None = None) -> tuple[LikelihoodModel, Tensor]:
        """Return a new model, initialised from eight images, and these images (8, 3, H, W); both on the CPU."""
        wanted = size or self.size
        x_uint8 = self.training_images(wanted)[:8]
        if (system, wanted) not in self._models:
            torch.manual_seed(0)
            params = self.params(wanted)
            model = make_model(system, params, params.prepare.image_size)
            model.initialise(x_uint8, x_uint8)
            self._models[system, wanted] = model
        return copy.deepcopy(self._models[system, wanted]), x_uint8


def registered(registry: Mapping[str, str]) -> Iterator[tuple[str, Callable[[Setting], Any]]]:
    """Yield names and functions of a registry; a module is imported when its turn comes."""
    for name, place in registry.items():
        module, _, function = place.partition(":")
        yield name, getattr(importlib.import_module(module), function)
