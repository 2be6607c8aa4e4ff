"""The steps `pretrain` and `joint`: from prepared images and earlier weights to trained weights on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agave.auxiliary_image import auxiliary_image
from agave.config import Compute, Model, Params, Training
from agave.csv_tables import write_table
from agave.data.arrays import load as load_images
from agave.errors import UserError
from agave.files import sha256
from agave.grid import Cell
from agave.models.agave import AGAVE
from agave.provenance.run_record import Record
from agave.runtime.checkpoints import RollingState, identity, load_weights, read_metadata, read_tensors, write_tensors
from agave.runtime.devices import Group, group_of, set_up
from agave.training.loop import Objective, Pace, Stop, train
from agave.training.tensorboard import watching

FORMAT = "agave-model-1"


@dataclass(frozen=True)
class Place:
    """Where a training runs and what it may take; nothing here changes a result beyond rounding.

    Attributes:
        state: folder of all rolling states.
        device: overrides the preset's `compute.device`, or None.
        threads: processor threads, or None for torch's default.
        stop: how often to save and when to stop early.
        source: digest of the science source, part of the state's identity.
        tensorboard: folder for TensorBoard, or None.
    """

    state: Path
    device: str | None = None
    threads: int | None = None
    stop: Stop = field(default_factory=Stop)
    source: str = ""
    tensorboard: Path | None = None


def images_to_tensor(images: np.ndarray[Any, np.dtype[np.uint8]], device: torch.device) -> Tensor:
    """(N, H, W, 3) array -> (N, 3, H, W) uint8 tensor on the device."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)


def make_model(options: Model, image_size: int, cell: Cell) -> AGAVE:
    """The untrained model of a cell."""
    return AGAVE(
        options,
        image_size,
        resolution=cell.resolution,
        levels=cell.levels,
        has_vae=cell.has_vae,
        has_pixelcnn_pp=cell.has_pixelcnn_pp,
    )


def load_model(path: Path, options: Model, image_size: int, cell: Cell) -> AGAVE:
    """A trained model.

    Raises:
        UserError: the file is missing, damaged, or of another architecture than the parameters say.
    """
    stored = _check_metadata(path, cell)["model"]
    for key in ("upsampling", "likelihood", "detach_features"):  # what no shape of a weight shows
        if stored[key] != options.model_dump()[key]:
            raise UserError(f"{path}: trained with model.{key} {stored[key]}; accepted: {options.model_dump()[key]}, as the parameters say")
    model = make_model(options, image_size, cell)
    load_weights(model, read_tensors(path), path)
    return model


def pretrain(params: Params, part: str, resolution: int, seed: int, data: Path, output: Path, place: Place) -> None:
    """Train one of the two networks alone from new weights.

    Args:
        params: of the preset.
        part: "vae" or "pixelcnn_pp".
        resolution: of the auxiliary image (vae), pixels.
        seed: of weights, data order and noise.
        data: folder of `agave prepare`.
        output: folder for model.safetensors (averaged weights), raw.safetensors, history.csv and run.json.
        place: where it runs.

    Raises:
        UserError: bad input, or no GPU where the preset wants one.
        InterruptedTrainingError: stopped early with the state saved.
    """
    # PAPER: which pretrained VAE a joint model starts from is not given; one per resolution of y, at 256 levels and one KL
    # weight, serves all KL weights and colour levels, so that cells differ in their joint objective alone.
    # PAPER: what conditions the PixelCNN while it is pretrained is not given; nothing does, its feature stream is added after.
    if part == "vae":
        cell = Cell("vae", kl_weight=params.pretrain.vae_kl_weight, resolution=resolution)
        _run("pretrain", params, cell, params.pretrain.vae, seed, data, {}, output, place)
    else:
        cell = Cell("pixelcnn_pp", resolution=params.prepare.image_size)
        _run("pretrain", params, cell, params.pretrain.pixelcnn_pp, seed, data, {}, output, place)


def joint(
    params: Params, cell: Cell, seed: int, data: Path, vae: Path | None, pixelcnn_pp: Path | None, output: Path, place: Place
) -> None:
    """Train a cell of the grid from pretrained weights.

    Args:
        params: of the preset.
        cell: which model; a baseline goes on with its one network.
        seed: of data order and noise.
        data: folder of `agave prepare`.
        vae: pretrained VAE, for a cell that has one.
        pixelcnn_pp: pretrained PixelCNN, for a cell that has one.
        output: folder for model.safetensors (averaged weights), raw.safetensors, history.csv and run.json.
        place: where it runs.

    Raises:
        UserError: bad input, or no GPU where the preset wants one.
        InterruptedTrainingError: stopped early with the state saved.
    """
    pretrained = {
        name: path
        for name, path, wanted in (("vae", vae, cell.has_vae), ("pixelcnn_pp", pixelcnn_pp, cell.has_pixelcnn_pp))
        if wanted and path
    }
    for name, wanted in (("vae", cell.has_vae), ("pixelcnn_pp", cell.has_pixelcnn_pp)):
        if wanted and name not in pretrained:
            raise UserError(f"{cell.name}: needs pretrained weights; give --{name} FILE, made by `agave pretrain {name}`")
    _run("joint", params, cell, params.joint, seed, data, pretrained, output, place)


def _run(
    step: str,
    params: Params,
    cell: Cell,
    options: Training,
    seed: int,
    data: Path,
    pretrained: Mapping[str, Path],
    output: Path,
    place: Place,
) -> None:
    device = set_up(params.compute, place.device, place.threads)
    with group_of(device) as group:
        _run_in_group(group, device, step, params, cell, options, seed, data, pretrained, output, place)


def _run_in_group(
    group: Group,
    device: torch.device,
    step: str,
    params: Params,
    cell: Cell,
    options: Training,
    seed: int,
    data: Path,
    pretrained: Mapping[str, Path],
    output: Path,
    place: Place,
) -> None:
    blocks = {
        "cell": cell.name,
        "kl_weight": cell.kl_weight,
        "resolution": cell.resolution,
        "seed": seed,
        "image_size": params.prepare.image_size,
        "model": params.model.model_dump(),
        "compute": {"device": device.type, "precision": params.compute.precision},
        "training": options.model_dump(),
    }
    inputs = {"images": data / "train.npy", **pretrained}
    images = load_images(data, "train")
    record = Record(step, blocks, inputs, str(device))
    name = identity(step=step, source=place.source, inputs={k: sha256(v) for k, v in inputs.items()}, **blocks)
    state = RollingState(place.state / name, lock=group.leads)
    try:
        x_uint8 = images_to_tensor(images, device)
        y_uint8 = auxiliary_image(x_uint8, cell.resolution)
        torch.manual_seed(seed)
        model = make_model(params.model, params.prepare.image_size, cell)
        for part, path in pretrained.items():
            _load_part(model, part, path)
        model.to(device).train()
        if group.leads:  # the others are given the weights of rank 0
            order = np.random.default_rng([seed, 2**32]).permutation(len(x_uint8))[: options.init_images]
            first = torch.from_numpy(order).to(device)
            model.initialise(x_uint8[first], y_uint8[first], vae="vae" not in pretrained, pixelcnn_pp="pixelcnn_pp" not in pretrained)
        with watching(place.tensorboard if group.leads else None, step, cell.name, seed) as watch:
            result = train(
                model,
                x_uint8,
                y_uint8,
                Objective(cell.kl_weight, cell.auxiliary),
                options,
                seed=seed,
                state=state,
                pace=_pace(params.compute),
                group=group,
                stop=place.stop,
                label=f"{step} {cell.name} seed {seed}",
                watch=watch,
            )
    finally:
        state.close()
    if not group.leads:
        return
    metadata = {"format": FORMAT, "step": step, **blocks}
    write_tensors(output / "model.safetensors", result.averaged, metadata | {"weights": "averaged"})
    write_tensors(output / "raw.safetensors", result.raw, metadata | {"weights": "raw"})
    write_table(output / "history.csv", result.history)
    files = [output / name for name in ("model.safetensors", "raw.safetensors", "history.csv")]
    parameters = sum(tensor.numel() for tensor in result.raw.values())
    facts = {"threads": torch.get_num_threads(), "devices": group.size, "parameters": parameters}
    record.write(output / "run.json", files, **facts, skipped=result.skipped, resumed=result.resumed)


def _pace(compute: Compute) -> Pace:
    return Pace(
        autocast=torch.bfloat16 if compute.precision == "bfloat16" else None,
        piece=compute.images_per_pass,
        checkpointing=compute.checkpointing,
        compile=compute.compile,
    )


def _load_part(model: AGAVE, name: str, path: Path) -> None:
    """Copy one pretrained network into the model; a feature stream it never had keeps its new weights."""
    metadata = _check_metadata(path, None)
    if name == "vae" and model.vae is not None and metadata["resolution"] != model.vae.resolution:
        raise UserError(f"{path}: a VAE for y of {metadata['resolution']} pixels; accepted: {model.vae.resolution} pixels")
    part = getattr(model, name)
    tensors = {key.removeprefix(f"{name}."): value for key, value in read_tensors(path).items() if key.startswith(f"{name}.")}
    if name == "pixelcnn_pp":
        new = {key: value for key, value in part.state_dict().items() if key.startswith("stream.") or ".inject." in key}
        tensors = new | tensors
    load_weights(part, tensors, path)


def _check_metadata(path: Path, cell: Cell | None) -> dict[str, Any]:
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: format {metadata.get('format')!r}; accepted: {FORMAT}")
    if cell is not None and metadata["cell"] != cell.name:
        raise UserError(f"{path}: holds the model of cell {metadata['cell']}; accepted: {cell.name}")
    return metadata
