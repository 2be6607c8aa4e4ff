"""The step `evaluate`: the one-sample bound split into its terms, and the importance-sampled bound."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.arrays import load as load_images
from agave.arrays import write_npz
from agave.auxiliary import auxiliary_image
from agave.bounds import StreamingLogMeanExp
from agave.cells import Cell
from agave.config import Params
from agave.errors import UserError
from agave.likelihoods import bits_per_dim
from agave.model import AGAVE
from agave.noise import POSTERIOR, keyed_noise
from agave.progress import Progress
from agave.provenance import Record
from agave.runs import Place, images_to_tensor, load_model, set_up
from agave.tabular import write_csv
from agave.vae import BottomUp

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


@torch.inference_mode()
def iwae_bounds(
    model: AGAVE, x_uint8: Tensor, y_uint8: Tensor, *, samples: int, seed: int, batch: int, label: str = "iwae"
) -> dict[str, Array]:
    """The importance-weighted bound on log p(x) with `samples` samples, for every image.

    The bottom-up pass runs once per image; samples are taken in chunks of `batch` and never held together.

    Args:
        model: with a VAE, in evaluation mode; without a PixelCNN the bound is on log p(y).
        x_uint8: (N, 3, H, W).
        y_uint8: (N, 3, r, r).
        samples: K.
        seed: of the latent noise, keyed by image and sample; sample 0 is that of `one_sample_terms`.
        batch: image samples per forward pass.
        label: for the progress bar.

    Returns:
        {"iwae", "elbo"}: (N,) nats, float64; "elbo" is the mean of the log-weights over the same samples.

    Source: Burda et al. (2016), Eq. 8.
    """
    assert model.vae is not None, "only a model with latent variables has importance samples"
    like = next(model.parameters())
    iwae, elbo = [], []
    with Progress(len(x_uint8) * samples, label, "sample") as progress:
        for image in range(len(x_uint8)):
            x, y = x_uint8[image : image + 1], y_uint8[image : image + 1]
            records = model.vae.encode(x)
            stream, total = StreamingLogMeanExp(1), torch.zeros(1, dtype=torch.float64)
            for start in range(0, samples, batch):
                n = min(batch, samples - start)
                noise = keyed_noise(seed, POSTERIOR, [image] * n, range(start, start + n), like=like)
                repeated = [BottomUp(*(t.expand(n, -1, -1, -1) for t in (r.mean, r.log_deviation, r.context))) for r in records]
                need_y = model.pixelcnn is None
                terms = model.terms_given_records(x.expand(n, -1, -1, -1), y.expand(n, -1, -1, -1) if need_y else None, repeated, noise)
                reconstruction = terms.log_prob_y if need_y else terms.log_prob_x
                assert reconstruction is not None
                log_weights = (reconstruction.double() - terms.kl.double()).cpu()[:, None]  # (n, 1)
                stream.update(log_weights)
                total += log_weights.sum(0)
                progress.update(n)
            iwae.append(stream.result())
            elbo.append(total / samples)
    return {"iwae": torch.cat(iwae).numpy(), "elbo": torch.cat(elbo).numpy()}


def evaluate(params: Params, cell: Cell, seed: int, data: Path, weights: Path, output: Path, place: Place, *, iwae: bool = False) -> None:
    """Evaluate a trained cell on all test images (or, for IWAE, on the first so many).

    Args:
        params: of the preset.
        cell: which model.
        seed: of its training; the noise of the evaluation has its own (`evaluate.seed`).
        data: folder of `agave prepare`.
        weights: model.safetensors of the cell.
        output: folder for bound.csv and per_image.npz, or with `iwae` for iwae.csv and iwae.npz.
        place: where it runs.
        iwae: the importance-sampled bound instead of the one-sample bound.

    Raises:
        UserError: bad input.
    """
    device = set_up(params.compute, place.device, place.threads)
    if iwae and not cell.has_vae:
        raise UserError(f"{cell.name}: has no latent variables, its one-sample bound is exact; accepted: a cell with a VAE")
    images = load_images(data, "test")
    if iwae and params.evaluate.iwae_images is not None:
        if params.evaluate.iwae_images > len(images):
            raise UserError(f"evaluate.iwae_images {params.evaluate.iwae_images}: there are only {len(images)} test images")
        images = images[: params.evaluate.iwae_images]
    model = load_model(weights, params.model, params.prepare.image_size, cell).to(device).eval()
    model.likelihood_dtype = torch.float64
    options = {"cell": cell.name, "seed": seed, "evaluate": params.evaluate.model_dump()}
    record = Record("evaluate", options, {"images": data / "test.npy", "model": weights}, str(device))
    x_uint8 = images_to_tensor(images, device)
    y_uint8 = auxiliary_image(x_uint8, cell.resolution)
    name = json.loads((data / "manifest.json").read_text())["name"]["test"]
    row: dict[str, Any] = _describe(cell, seed, name, len(images))
    common = {"seed": params.evaluate.seed, "batch": params.evaluate.batch}
    dimensions = x_uint8[0].numel()
    if iwae:
        samples = params.evaluate.iwae_samples
        values = iwae_bounds(model, x_uint8, y_uint8, samples=samples, label=f"iwae {cell.name} seed {seed}", **common)
        row["samples"] = samples
        for bound in ("elbo", "iwae"):
            row |= dict(_mean_and_error(f"{bound}_bits_per_dim", bits_per_dim(-values[bound], dimensions)))
        files = [output / "iwae.csv", output / "iwae.npz"]
    else:
        values = one_sample_terms(model, x_uint8, y_uint8, label=f"evaluate {cell.name} seed {seed}", **common)
        row |= bound_columns(values, dimensions, 3 * cell.resolution**2)
        files = [output / "bound.csv", output / "per_image.npz"]
    for term, nats in values.items():
        if not np.isfinite(nats).all():
            wrong = int(np.flatnonzero(~np.isfinite(nats))[0])
            raise UserError(f"{cell.name}: {term} of test image {wrong} is {nats[wrong]}; accepted: finite values. Nothing was written")
    write_csv(files[0], [row])
    write_npz(files[1], values)
    record.write(output / ("iwae.json" if iwae else "bound.json"), files, threads=torch.get_num_threads())


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


def _describe(cell: Cell, seed: int, data_set: str, images: int) -> dict[str, Any]:
    plain = cell.kind == "pixelcnn"
    return {
        "cell": cell.name,
        "kind": cell.kind,
        "kl_weight": None if plain else cell.kl_weight,
        "levels": None if plain else cell.levels,
        "resolution": None if plain else cell.resolution,
        "auxiliary": None if plain else cell.auxiliary,
        "seed": seed,
        "data_set": data_set,
        "images": images,
    }
