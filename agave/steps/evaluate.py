"""The step `evaluate`: the one-sample bound split into its terms, and the importance-sampled bound, of a trained cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agave.auxiliary_image import auxiliary_image
from agave.config import Params
from agave.csv_tables import write_table
from agave.data.arrays import ImageArray, load_images, write_npz
from agave.data.manifest import name_of_test_images
from agave.errors import UserError
from agave.evaluation.importance import gather_shards, growth_samples, iwae_bounds, shard_path, shard_range, write_shard
from agave.evaluation.memory import default_budget, evaluation_cost
from agave.evaluation.one_sample import MAPPED_IMAGES, Array, bound_columns, mean_and_error, one_sample_terms
from agave.files import sha256
from agave.grid import Cell, mapped_cells, sampled_cells
from agave.likelihoods import bits_per_dim
from agave.models import REGISTRY
from agave.models.files import load_cell
from agave.models.layers import folded
from agave.provenance.run_record import Recorder
from agave.runtime.checkpoints import RollingState, identity
from agave.runtime.devices import Place, images_to_tensor, set_up


@dataclass(frozen=True)
class Options:
    """Options of an evaluation. None of them changes a reported number, because these are computed in float32.

    Attributes:
        shard: (number from 1, count): evaluate only these images and write the file of this shard; None: all images.
        memory: memory for the networks and their activations, bytes; None: `memory.default_budget`.
        precision: "float32", or "bfloat16" for a quick look; the results say which.
    """

    shard: tuple[int, int] | None = None
    memory: int | None = None
    precision: str = "float32"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: the model, its data and its options.

    Attributes:
        params: parameters of the preset.
        cell: the model.
        seed: seed of its training; the noise of the evaluation has its own (`evaluate.seed`).
        data: folder of `agave prepare`.
        weights: model.safetensors of the cell.
        output: folder for the results.
        options: options of the evaluation.
    """

    params: Params
    cell: Cell
    seed: int
    data: Path
    weights: Path
    output: Path
    options: Options = Options()

    @property
    def inputs(self) -> dict[str, Path]:
        """Return the files that the evaluation reads."""
        return {"images": self.data / "test.npy", "model": self.weights}

    def described(self) -> dict[str, Any]:
        """Return everything besides the inputs that determines the values."""
        evaluate = self.params.evaluate.model_dump(exclude={"batch"})
        return {"cell": self.cell.name, "seed": self.seed, "evaluate": evaluate, "precision": self.options.precision}

    def row(self, images: int) -> dict[str, Any]:
        """Return the first columns of a result."""
        cell, plain = self.cell, not self.cell.has_vae
        return {
            "cell": cell.name,
            "kind": cell.kind,
            "kl_weight": None if plain else cell.kl_weight,
            "levels": None if plain else cell.levels,
            "resolution": None if plain else cell.resolution,
            "auxiliary": None if plain else cell.auxiliary,
            "seed": self.seed,
            "data_set": name_of_test_images(self.data),
            "images": images,
            "precision": self.options.precision,
        }

    def iwae_images(self) -> tuple[ImageArray, str]:
        """Return the images of the importance-sampled bound, and a hash of everything that determines its values.

        Raises:
            UserError: nothing in the bound of the system is random, or there are too few images.
        """
        if not self.cell.has_samples:
            why = "its likelihood is exact" if REGISTRY[self.cell.system].bound == "exact" else "its bound has no noise"
            accepted = ", ".join(cell.name for cell in sampled_cells(self.params))
            raise UserError(f"{self.cell.name}: {why}, there is nothing to draw samples of; accepted: {accepted}")
        images = load_images(self.data, "test")
        chosen = self.params.evaluate.iwae_images
        if chosen is not None and chosen > len(images):
            raise UserError(f"evaluate.iwae_images {chosen}: there are only {len(images)} test images")
        if self.options.shard is not None:
            shard_range(*self.options.shard, images=len(images[:chosen]))
        return images[:chosen], identity(inputs={name: sha256(path) for name, path in self.inputs.items()}, **self.described())


class _Run:
    """A running evaluation: the model on its device, images as tensors, the batch that fits, the run record."""

    def __init__(self, evaluation: Evaluation, place: Place, images: ImageArray) -> None:
        params, cell, options = evaluation.params, evaluation.cell, evaluation.options
        self.device = set_up(params.compute, place.device, place.threads)
        budget = default_budget(self.device) if options.memory is None else options.memory
        self.model = load_cell(evaluation.weights, params, cell).to(self.device).eval()
        self.model.likelihood_dtype = torch.float64
        self.batch = evaluation_cost(self.model).batch(budget, params.evaluate.batch)
        self.record = Recorder("evaluate", evaluation.described(), evaluation.inputs, str(self.device))
        self.x_uint8 = images_to_tensor(images, self.device)
        self.y_uint8 = auxiliary_image(self.x_uint8, cell.resolution)
        self.label = f"evaluate {cell.name} seed {evaluation.seed}"
        # the precision of the convolutions; what a likelihood is given is never rounded
        self.autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=options.precision == "bfloat16")


def evaluate_bound(evaluation: Evaluation, place: Place) -> None:
    """Write the one-sample bound of a cell on all test images: bound.csv and per_image.npz.

    per_image.npz has the terms of every image, the mean bits of each pixel, and for the models of figure `bits` those of some images.

    Raises:
        UserError: bad input, or a value that is not finite.
    """
    params, cell, output = evaluation.params, evaluation.cell, evaluation.output
    run = _Run(evaluation, place, load_images(evaluation.data, "test"))
    mapped = MAPPED_IMAGES if cell in mapped_cells(params) else 0
    with run.autocast, folded(run.model):
        values = one_sample_terms(
            run.model, run.x_uint8, run.y_uint8, seed=params.evaluate.seed, batch=run.batch, label=run.label, mapped=mapped
        )
    _check_finite(values, cell)
    row = evaluation.row(len(run.x_uint8)) | bound_columns(values, run.x_uint8[0].numel(), 3 * cell.resolution**2)
    files = [output / "bound.csv", output / "per_image.npz"]
    write_table(files[0], [row])
    write_npz(files[1], {name: array.astype(np.float32) if name.startswith("bits") else array for name, array in values.items()})
    run.record.write(output / "bound.json", files, threads=torch.get_num_threads(), batch=run.batch)


def evaluate_iwae(evaluation: Evaluation, place: Place) -> None:
    """Write the importance-sampled bound of a cell on all test images or the first so many (`evaluate.iwae_images`).

    With `options.shard` it writes only the images of that shard, as iwae-NUMBER-of-COUNT.npz for `gather_iwae`; otherwise iwae.csv,
    growth.csv and iwae.npz. Finished images are kept in the state folder of `place`, from which a rerun resumes.

    Raises:
        UserError: bad input, or a value that is not finite.
    """
    images, name = evaluation.iwae_images()
    number, count = evaluation.options.shard or (1, 1)
    part = shard_range(number, count, len(images))
    run = _Run(evaluation, place, images[part.start : part.stop])
    state = RollingState(
        place.state / identity(evaluation=name, source=place.source, device=run.device.type, images=[part.start, part.stop])
    )
    try:
        with run.autocast:
            values = iwae_bounds(
                run.model,
                run.x_uint8,
                run.y_uint8,
                samples=evaluation.params.evaluate.iwae_samples,
                seed=evaluation.params.evaluate.seed,
                batch=run.batch,
                first=part.start,
                state=state,
                stop=place.stop,
                label=run.label,
            )
    finally:
        state.close()
    _check_finite(values, evaluation.cell, part.start)
    if evaluation.options.shard is None:
        _write_iwae(evaluation, values, run.record, batch=run.batch)
        return
    path = shard_path(evaluation.output, number, count)
    write_shard(path, values, part.start, name)
    run.record.write(path.with_suffix(".json"), [path], threads=torch.get_num_threads(), batch=run.batch)


def gather_iwae(evaluation: Evaluation, count: int) -> None:
    """Join the `count` shards of `evaluate_iwae` that lie in the output folder into iwae.csv, growth.csv and iwae.npz.

    Raises:
        UserError: bad input, or a shard is missing or belongs to another evaluation.
    """
    images, name = evaluation.iwae_images()
    shards = {f"shard {number}": shard_path(evaluation.output, number, count) for number in range(1, count + 1)}
    shard_range(1, count, len(images))
    values = gather_shards(evaluation.output, count, len(images), name)
    _write_iwae(evaluation, values, Recorder("evaluate", evaluation.described(), evaluation.inputs | shards))


def _write_iwae(evaluation: Evaluation, values: dict[str, Array], record: Recorder, **facts: Any) -> None:
    params, output = evaluation.params, evaluation.output
    dimensions, samples = 3 * params.prepare.image_size**2, params.evaluate.iwae_samples
    row = evaluation.row(len(values["iwae"]))
    bounds = bits_per_dim(-values["growth"], dimensions)  # (N, numbers of samples)
    growth = [
        row
        | {"samples": count}
        | mean_and_error("iwae_bits_per_dim", bounds[:, column])
        | mean_and_error("gain", bounds[:, 0] - bounds[:, column])
        for column, count in enumerate(growth_samples(samples))
    ]
    row = row | {"samples": samples}
    for name in ("elbo", "iwae"):
        row |= mean_and_error(f"{name}_bits_per_dim", bits_per_dim(-values[name], dimensions))
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
