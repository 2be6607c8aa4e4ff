"""The step `codec`: compress test images with a trained cell to a file as long as its likelihood, and decompress it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from agave.codec.compression import Codec
from agave.codec.container import MODEL_BYTES, Coding
from agave.config import Params
from agave.csv_tables import write_table
from agave.data.arrays import load_images, read_array_file, write_npz
from agave.data.manifest import name_of_test_images
from agave.errors import UserError
from agave.files import atomic_write, sha256
from agave.grid import Cell
from agave.models.files import load_cell
from agave.provenance.run_record import Recorder
from agave.runtime.devices import Place, set_up
from agave.units import bits_per_dim


def run(params: Params, cell: Cell, seed: int, data: Path, weights: Path, bound: Path, output: Path, place: Place) -> None:
    """Write images.agv, the first test images in one file; codec.csv, its size beside the bound; codec.npz, the bits of each image.

    The file is decompressed, and compared with the images, before anything is written.

    Args:
        params: parameters of the preset.
        cell: the model.
        seed: seed of its training.
        data: folder of `agave prepare`.
        weights: model.safetensors of the cell.
        bound: per_image.npz of `agave evaluate bound` of the same cell and seed.
        output: folder for images.agv, codec.csv, codec.npz and the run record codec.json.
        place: device and limits of the work.

    Raises:
        UserError: bad input, the system has no coder, or the pixels that come back are others.
    """
    device = set_up(params.compute, place.device, place.threads)
    images = load_images(data, "test")[: params.codec.images]
    nats = _nats(bound, cell, len(images))
    codec = Codec(load_cell(weights, params, cell).to(device), bytes.fromhex(sha256(weights))[:MODEL_BYTES])
    options = {"cell": cell.name, "seed": seed, "codec": params.codec.model_dump(include={"images", "group"})}
    record = Recorder("codec", options, {"images": data / "test.npy", "model": weights, "bound": bound}, str(device))
    label = f"{cell.name} seed {seed}"
    made = codec.compress(images, group=params.codec.group, label=f"compress {label}")
    found = codec.decompress(made.data, "images.agv", label=f"decompress {label}")
    exact = int((found == images).all((1, 2, 3)).sum())
    if exact < len(images):
        raise UserError(f"{cell.name}: {len(images) - exact} images come back with other pixels; nothing was written. Please report it")
    ideal, by_model = nats / np.log(2), np.array([coding == Coding.MODEL for coding in made.codings])
    file_bits, dimensions = 8 * len(made.data), images.size
    row = {
        "cell": cell.name,
        "seed": seed,
        "data_set": name_of_test_images(data),
        "images": len(images),
        "exact_images": exact,
        "bound": codec.model.bound,
        "bound_bits_per_dim": bits_per_dim(nats.sum(), dimensions),
        "file_bytes": len(made.data),
        "file_bits_per_dim": file_bits / dimensions,
        "overhead_percent": 100 * (file_bits / ideal.sum() - 1),
        "images_without_latent_variables": int((~by_model).sum()),
        "overhead_percent_of_the_others": 100 * (made.lengths[by_model].sum() / ideal[by_model].sum() - 1) if by_model.any() else None,
    }
    files = [output / name for name in ("codec.csv", "codec.npz", "images.agv")]
    write_table(files[0], [row])
    write_npz(files[1], {"bits": made.lengths, "bound_bits": ideal, "by_model": by_model})
    with atomic_write(files[2]) as temporary:
        temporary.write_bytes(made.data)
    record.write(output / "codec.json", files, threads=torch.get_num_threads())


def _nats(bound: Path, cell: Cell, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the bound of the first `count` images in nats: of x, or for the VAE alone of y, which is x."""
    terms = read_array_file(bound)
    name = "log_prob_x" if cell.models_x else "log_prob_y"
    missing = [one for one in ("kl", name) if one not in terms or terms[one].ndim != 1 or len(terms[one]) < count]
    if missing:
        raise UserError(f"{bound}: lacks {missing[0]} of {count} images; accepted: per_image.npz of `agave evaluate bound {cell.name}`")
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = terms["kl"][:count] - terms[name][:count]
    return found
