"""One training, from prepared images and earlier weights to trained weights on disk. The steps `pretrain` and `joint` share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agave.auxiliary_image import auxiliary_image
from agave.config import Compute, Params, Training
from agave.csv_tables import write_table
from agave.data.arrays import load_images
from agave.errors import UserError
from agave.files import sha256
from agave.grid import Cell
from agave.models import make_model, options_of
from agave.models.files import describe_model, read_model_metadata
from agave.models.interface import LikelihoodModel
from agave.objective import Objective
from agave.provenance.run_record import Recorder
from agave.runtime.checkpoints import RollingState, identity, read_tensors, write_tensors
from agave.runtime.devices import Group, Place, group_of, images_to_tensor, set_up
from agave.training.loop import Pace, Trainer, TrainingResult
from agave.training.tensorboard import watching


@dataclass(frozen=True)
class TrainingJob:
    """A training: the model, its data and options, and where the weights are written.

    Attributes:
        step: "pretrain" or "joint".
        params: parameters of the preset.
        cell: the model.
        training: steps, batch, learning rate and so on.
        seed: seed of weights, data order and noise.
        data: folder of `agave prepare`.
        output: folder for model.safetensors (averaged weights), raw.safetensors, history.csv and run.json.
        place: device and limits of the training.
        pretrained: files of pretrained weights by part of the model.
    """

    step: str
    params: Params
    cell: Cell
    training: Training
    seed: int
    data: Path
    output: Path
    place: Place
    pretrained: Mapping[str, Path] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Path]:
        """Return the files that the training reads."""
        return {"images": self.data / "train.npy", **self.pretrained}

    def options(self, device: torch.device) -> dict[str, Any]:
        """Return everything besides the inputs that decides the weights."""
        compute = self.params.compute
        rounded = {"allreduce": compute.allreduce} if compute.allreduce != "float32" else {}
        return {
            "cell": self.cell.name,
            "kl_weight": self.cell.kl_weight,
            "resolution": self.cell.resolution,
            "seed": self.seed,
            "image_size": self.params.prepare.image_size,
            "model": options_of(self.cell.system, self.params),
            "compute": {"device": device.type, "precision": compute.precision} | rounded,
            "training": self.training.model_dump(),
        }

    def run(self) -> None:
        """Train, and write weights, history and run record.

        Raises:
            UserError: bad input, or no GPU where the preset wants one.
            InterruptedWorkError: the training stopped early with its state saved.
        """
        device = set_up(self.params.compute, self.place.device, self.place.threads)
        with group_of(device) as group:
            images = load_images(self.data, "train")
            record = Recorder(self.step, self.options(device), self.inputs, str(device))
            hashes = {name: sha256(path) for name, path in self.inputs.items()}
            name = identity(step=self.step, source=self.place.source, inputs=hashes, **self.options(device))
            state = RollingState(self.place.state / name, lock=group.leads)
            try:
                result = self._train(images_to_tensor(images, device), group, state)
            finally:
                state.close()
            if group.leads:
                self._write(result, record, group, device)

    def _train(self, x_uint8: Tensor, group: Group, state: RollingState) -> TrainingResult:
        y_uint8 = auxiliary_image(x_uint8, self.cell.resolution)
        model = self._initialised(x_uint8, y_uint8, group)
        folder = self.place.tensorboard if group.leads else None
        with watching(folder, self.step, self.cell.name, self.seed) as watch:
            return Trainer(
                model,
                x_uint8,
                y_uint8,
                Objective(self.cell.kl_weight, self.cell.auxiliary),
                self.training,
                seed=self.seed,
                state=state,
                pace=_pace(self.params.compute),
                group=group,
                stop=self.place.stop,
                label=f"{self.step} {self.cell.name} seed {self.seed}",
                watch=watch,
            ).run()

    def _initialised(self, x_uint8: Tensor, y_uint8: Tensor, group: Group) -> LikelihoodModel:
        """Return the model with pretrained weights. Rank 0 initialises the other weights from data and sends them to the other ranks."""
        torch.manual_seed(self.seed)
        cell = self.cell
        model = make_model(cell.system, self.params, self.params.prepare.image_size, resolution=cell.resolution, levels=cell.levels)
        for part, path in self.pretrained.items():
            resolution = read_model_metadata(path)["resolution"]
            if part == "vae" and resolution != cell.resolution:
                raise UserError(f"{path}: a VAE for y of {resolution} pixels; accepted: {cell.resolution} pixels")
            model.load_pretrained(part, read_tensors(path), path)
        model.to(x_uint8.device).train()
        if group.leads:
            if not model.init_on_all_images:
                order = np.random.default_rng([self.seed, 2**32]).permutation(len(x_uint8))[: self.training.init_images]
                first = torch.from_numpy(order).to(x_uint8.device)
                x_uint8, y_uint8 = x_uint8[first], y_uint8[first]
            model.initialise(x_uint8, y_uint8, self.pretrained)
        return model

    def _write(self, result: TrainingResult, record: Recorder, group: Group, device: torch.device) -> None:
        metadata = self.options(device) | {"step": self.step} | describe_model(self.cell, self.params)
        files = [self.output / name for name in ("model.safetensors", "raw.safetensors", "history.csv")]
        write_tensors(files[0], result.averaged, metadata | {"weights": "averaged"})
        write_tensors(files[1], result.raw, metadata | {"weights": "raw"})
        write_table(files[2], result.history)
        facts = {"threads": torch.get_num_threads(), "devices": group.size, "parameters": result.parameters}
        record.write(self.output / "run.json", files, **facts, skipped=result.skipped, resumed=result.resumed)


def _pace(compute: Compute) -> Pace:
    return Pace(
        autocast=torch.bfloat16 if compute.precision == "bfloat16" else None,
        piece=compute.images_per_pass,
        checkpointing=compute.checkpointing,
        compile=compute.compile,
        allreduce=torch.bfloat16 if compute.allreduce == "bfloat16" else torch.float32,
    )
