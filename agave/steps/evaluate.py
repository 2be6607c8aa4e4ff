"""The step `evaluate`: the one-sample bound split into its terms, and the importance-sampled bound."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.auxiliary_image import auxiliary_image
from agave.config import Params
from agave.csv_tables import write_table
from agave.data.arrays import ImageArray, write_npz
from agave.data.arrays import load as load_images
from agave.errors import UserError
from agave.evaluation.importance import gather, growth_samples, iwae_bounds, shard_path, shard_range, write_shard
from agave.evaluation.memory import default_budget, evaluation_cost
from agave.files import sha256
from agave.folding import folded
from agave.grid import Cell
from agave.likelihoods import bits_per_dim
from agave.models.agave import AGAVE
from agave.noise import POSTERIOR, keyed_noise
from agave.provenance.run_record import Record
from agave.runtime.checkpoints import RollingState
from agave.runtime.checkpoints import identity as state_name
from agave.runtime.devices import set_up
from agave.runtime.progress import Progress
from agave.training.job import Place, images_to_tensor, load_model

Array = NDArray[np.float64]


@torch.inference_mode()
def one_sample_terms(model: AGAVE, x_uint8: Tensor, y_uint8: Tensor, *, seed: int, batch: int, label: str = "evaluate") -> dict[str, Array]:
    """The terms of the one-sample bound for every image.

    Args:
        model: in evaluation mode.
        x_uint8: (N, 3, H, W).
        y_uint8: (N, 3, r, r).
        seed: of the latent noise, keyed by image.
        batch: images per forward pass.
        label: for the progress bar.

    Returns:
        {"kl", "log_prob_x", "log_prob_y"}: (N,) nats, float64; without the entries that the model has no network for.
    """
    found: dict[str, list[Tensor]] = {"kl": [], "log_prob_x": [], "log_prob_y": []}
    with Progress(len(x_uint8), label, "image") as progress:
        for start in range(0, len(x_uint8), batch):
            x, y = x_uint8[start : start + batch], y_uint8[start : start + batch]
            images = range(start, start + len(x))
            noise = keyed_noise(seed, POSTERIOR, images, [0] * len(x), like=next(model.parameters()))
            terms = model(x, y, noise)
            for name, values in found.items():
                value = getattr(terms, name)
                if value is not None:
                    values.append(value.double().cpu())
            progress.update(len(x))
    return {name: torch.cat(values).numpy() for name, values in found.items() if values}


@dataclass(frozen=True)
class Options:
    """How an evaluation runs. None of these changes a reported number: those are made in float32.

    Attributes:
        shard: (number from 1, count): only these images, and write the file of this shard; None: all images.
        memory: bytes that the networks and their activations may take; None: `memory.default_budget`.
        precision: "float32", or "bfloat16" for a quick look; the results say which.
    """

    shard: tuple[int, int] | None = None
    memory: int | None = None
    precision: str = "float32"


def evaluate(params: Params, cell: Cell, seed: int, data: Path, weights: Path, output: Path, place: Place, options: Options) -> None:
    """The one-sample bound of a trained cell on all test images, as bound.csv and per_image.npz.

    Args:
        params: of the preset.
        cell: which model.
        seed: of its training; the noise of the evaluation has its own (`evaluate.seed`).
        data: folder of `agave prepare`.
        weights: model.safetensors of the cell.
        output: folder for the results.
        place: where it runs.
        options: how it runs.

    Raises:
        UserError: bad input.
    """
    job = _Job(params, cell, seed, data, weights, place, options, load_images(data, "test"))
    with job.autocast(), folded(job.model):
        values = one_sample_terms(job.model, job.x_uint8, job.y_uint8, seed=params.evaluate.seed, batch=job.batch, label=job.label)
    row = job.row() | bound_columns(values, job.dimensions, 3 * cell.resolution**2)
    _check_finite(values, cell)
    files = [output / "bound.csv", output / "per_image.npz"]
    write_table(files[0], [row])
    write_npz(files[1], values)
    job.record.write(output / "bound.json", files, threads=torch.get_num_threads(), batch=job.batch)


def evaluate_iwae(params: Params, cell: Cell, seed: int, data: Path, weights: Path, output: Path, place: Place, options: Options) -> None:
    """The importance-sampled bound of a trained cell, on all test images or the first so many (`evaluate.iwae_images`).

    With `options.shard` only the images of that shard, as iwae-NUMBER-of-COUNT.npz for `gather_iwae`; else iwae.csv,
    growth.csv and iwae.npz. Finished images are kept in the state folder of `place`, and a rerun goes on from them.

    Args, Raises: those of `evaluate`.
    """
    images, identity = _iwae_images(params, cell, seed, data, weights, options)
    number, count = options.shard or (1, 1)
    part = shard_range(number, count, len(images))
    job = _Job(params, cell, seed, data, weights, place, options, images[part.start : part.stop])
    state = RollingState(
        place.state / state_name(evaluation=identity, source=place.source, device=job.device.type, images=[part.start, part.stop])
    )
    try:
        with job.autocast():
            values = iwae_bounds(
                job.model,
                job.x_uint8,
                job.y_uint8,
                samples=params.evaluate.iwae_samples,
                seed=params.evaluate.seed,
                batch=job.batch,
                first=part.start,
                state=state,
                stop=place.stop,
                label=job.label,
            )
    finally:
        state.close()
    _check_finite(values, cell, part.start)
    if options.shard is not None:
        path = shard_path(output, number, count)
        write_shard(path, values, part.start, identity)
        job.record.write(path.with_suffix(".json"), [path], threads=torch.get_num_threads(), batch=job.batch)
    else:
        _write_iwae(params, cell, values, job.row(), output, job.record, batch=job.batch)


def gather_iwae(
    params: Params, cell: Cell, seed: int, data: Path, weights: Path, output: Path, count: int, precision: str = "float32"
) -> None:
    """Join the `count` shards of `evaluate_iwae` that lie in `output` into iwae.csv, growth.csv and iwae.npz.

    Args, Raises: those of `evaluate`.
    """
    options = Options(precision=precision)
    images, identity = _iwae_images(params, cell, seed, data, weights, options)
    shards = {f"shard {number}": shard_path(output, number, count) for number in range(1, count + 1)}
    shard_range(1, count, len(images))
    values = gather(output, count, len(images), identity)
    record = Record("evaluate", _described(params, cell, seed, options), {"images": data / "test.npy", "model": weights} | shards)
    _write_iwae(params, cell, values, _describe(cell, seed, data, len(images), options), output, record)


class _Job:
    """What both evaluations need: the model on its device, images as tensors, the batch that fits, the run record."""

    def __init__(
        self, params: Params, cell: Cell, seed: int, data: Path, weights: Path, place: Place, options: Options, images: ImageArray
    ) -> None:
        self.device = set_up(params.compute, place.device, place.threads)
        cost = evaluation_cost(params.model, params.prepare.image_size, cell)
        budget = default_budget(self.device) if options.memory is None else options.memory
        self.batch = cost.batch(budget, params.evaluate.batch)
        self.model = load_model(weights, params.model, params.prepare.image_size, cell).to(self.device).eval()
        self.model.likelihood_dtype = torch.float64
        inputs = {"images": data / "test.npy", "model": weights}
        self.record = Record("evaluate", _described(params, cell, seed, options), inputs, str(self.device))
        self.x_uint8 = images_to_tensor(images, self.device)
        self.y_uint8 = auxiliary_image(self.x_uint8, cell.resolution)
        self.dimensions = self.x_uint8[0].numel()
        self.label = f"evaluate {cell.name} seed {seed}"
        self._row = _describe(cell, seed, data, len(images), options)
        self._bfloat16 = options.precision == "bfloat16"

    def autocast(self) -> torch.autocast:
        """The precision of the convolutions; what a likelihood is given is never rounded."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16)

    def row(self) -> dict[str, Any]:
        """The first columns of a result."""
        return dict(self._row)


def _iwae_images(params: Params, cell: Cell, seed: int, data: Path, weights: Path, options: Options) -> tuple[ImageArray, str]:
    """The images of the importance-sampled bound, and a hash of all that decides its values."""
    if not cell.has_vae:
        raise UserError(f"{cell.name}: has no latent variables, its one-sample bound is exact; accepted: a cell with a VAE")
    images = load_images(data, "test")
    chosen = params.evaluate.iwae_images
    if chosen is not None and chosen > len(images):
        raise UserError(f"evaluate.iwae_images {chosen}: there are only {len(images)} test images")
    if options.shard is not None:
        shard_range(*options.shard, images=len(images[:chosen]))
    inputs = {"images": sha256(data / "test.npy"), "model": sha256(weights)}
    return images[:chosen], state_name(inputs=inputs, **_described(params, cell, seed, options))


def _described(params: Params, cell: Cell, seed: int, options: Options) -> dict[str, Any]:
    """What decides the values of an evaluation, besides its inputs."""
    return {"cell": cell.name, "seed": seed, "evaluate": params.evaluate.model_dump(exclude={"batch"}), "precision": options.precision}


def _write_iwae(
    params: Params, cell: Cell, values: dict[str, Array], row: dict[str, Any], output: Path, record: Record, **facts: Any
) -> None:
    dimensions = 3 * params.prepare.image_size**2
    samples = params.evaluate.iwae_samples
    bounds = bits_per_dim(-values["growth"], dimensions)  # (N, numbers of samples)
    growth = []
    for column, count in enumerate(growth_samples(samples)):
        bound = dict(_mean_and_error("iwae_bits_per_dim", bounds[:, column]))
        growth.append(row | {"samples": count} | bound | dict(_mean_and_error("gain", bounds[:, 0] - bounds[:, column])))
    row = row | {"samples": samples}
    for name in ("elbo", "iwae"):
        row |= dict(_mean_and_error(f"{name}_bits_per_dim", bits_per_dim(-values[name], dimensions)))
    files = [output / name for name in ("iwae.csv", "growth.csv", "iwae.npz")]
    write_table(files[0], [row])
    write_table(files[1], growth)
    write_npz(files[2], {**values, "samples": np.array(growth_samples(samples))})
    record.write(output / "iwae.json", files, threads=torch.get_num_threads(), **facts)


def _check_finite(values: dict[str, Array], cell: Cell, first: int = 0) -> None:
    for term, nats in values.items():
        if not np.isfinite(nats).all():
            wrong = np.argwhere(~np.isfinite(nats))[0]
            value = nats[tuple(wrong)]
            raise UserError(
                f"{cell.name}: {term} of test image {first + wrong[0]} is {value}; accepted: finite values. Nothing was written"
            )


def bound_columns(terms: dict[str, Array], dimensions: int, auxiliary_dimensions: int) -> dict[str, float | None]:
    """Means over images and their standard errors, from the per-image terms in nats.

    Args:
        terms: of `one_sample_terms`.
        dimensions: D = 3 H W of x.
        auxiliary_dimensions: E = 3 r^2 of y.

    Returns:
        kl, vae_reconstruction, pixelcnn_reconstruction (bits per dimension of x), vae_bits_per_dim (bits per dimension of y),
        pixelcnn_bits_per_dim (of x), each with its standard error; None where a network is absent.
    """
    kl = bits_per_dim(terms["kl"], dimensions)
    x = bits_per_dim(-terms["log_prob_x"], dimensions) if "log_prob_x" in terms else None
    y = bits_per_dim(-terms["log_prob_y"], dimensions) if "log_prob_y" in terms else None
    columns = {
        "kl": kl,
        "vae_reconstruction": y,
        "pixelcnn_reconstruction": x,
        "vae_bits_per_dim": None if y is None else (kl + y) * dimensions / auxiliary_dimensions,
        "pixelcnn_bits_per_dim": None if x is None else kl + x,
    }
    pairs = [list(_mean_and_error(name, value)) for name, value in columns.items()]
    return dict([pair[0] for pair in pairs] + [pair[1] for pair in pairs])


def _mean_and_error(name: str, values: Any) -> Iterator[tuple[str, float | None]]:
    yield name, None if values is None else float(np.mean(values))
    error = None
    if values is not None and len(values) > 1:
        error = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    yield f"{name}_standard_error", error


def _describe(cell: Cell, seed: int, data: Path, images: int, options: Options) -> dict[str, Any]:
    plain = cell.kind == "pixelcnn_pp"
    return {
        "cell": cell.name,
        "kind": cell.kind,
        "kl_weight": None if plain else cell.kl_weight,
        "levels": None if plain else cell.levels,
        "resolution": None if plain else cell.resolution,
        "auxiliary": None if plain else cell.auxiliary,
        "seed": seed,
        "data_set": json.loads((data / "manifest.json").read_text())["name"]["test"],
        "images": images,
        "precision": options.precision,
    }
