"""The step `sample`: draw images with a trained cell, measure them, and keep those that the figures show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agave.config import Params
from agave.data.arrays import load_images, write_npz
from agave.errors import UserError
from agave.grid import Cell
from agave.measures import measure
from agave.models.files import load_cell
from agave.provenance.run_record import Recorder
from agave.runtime.devices import Place, images_to_tensor, set_up


def run(params: Params, cell: Cell, seed: int, data: Path, weights: Path, output: Path, place: Place, drawn: Path | None = None) -> None:
    """Write samples.npz, uint8 arrays (N, height, width, 3), with the same test images and noise for every cell.

    For a cell with a VAE these are original, reconstruction (f(z) with z from the posterior) and prior (f(z) with z from the prior).
    With a PixelCNN++ as well, there are also reconstruction_sample and prior_sample, drawn given these f(z), and completion, the
    original with all but its first rows drawn again given the reconstruction's f(z). The VAE alone has prior_draw, a draw from p(y|z).
    PixelCNN++ alone has original, prior_sample and completion.

    What git keeps of them are two small files: measures.npz, the measures of `agave.measures` for each image (those of the test images
    alone only for PixelCNN++ alone, because they are the same for all cells), and shown.npz, the first `sample.shown` images of each
    array for the first seed of the grid, none for the other seeds.

    Args:
        params: parameters of the preset.
        cell: the model.
        seed: seed of its training.
        data: folder of `agave prepare`.
        weights: model.safetensors of the cell.
        output: folder for measures.npz, shown.npz and measures.json.
        place: device and limits of the work.
        drawn: folder for samples.npz; None: `output`.

    Raises:
        UserError: bad input.
    """
    device = set_up(params.compute, place.device, place.threads)
    images = load_images(data, "test")
    count, batch = params.sample.images, params.sample.batch
    if count > len(images):
        raise UserError(f"sample.images {count}: there are only {len(images)} test images")
    model = load_cell(weights, params, cell).to(device).eval()
    options = {"cell": cell.name, "seed": seed, "sample": params.sample.model_dump()}
    record = Recorder("sample", options, {"images": data / "test.npy", "model": weights}, str(device))
    x_uint8, label = images_to_tensor(images[:count], device), f"sample {cell.name} seed {seed}"
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, count, batch):
        made = model.figure_images(x_uint8[first : first + batch], first=first, options=params.sample, label=label)
        for name, tensor in made.items():
            parts.setdefault(name, []).append(tensor)
    # (N, 3, H, W) tensors -> (N, H, W, 3) arrays
    arrays = {name: np.ascontiguousarray(torch.cat(some).cpu().permute(0, 2, 3, 1).numpy()) for name, some in parts.items()}
    shown = params.sample.shown if seed == params.grid.seeds[0] else 0
    files = [output / "measures.npz", output / "shown.npz", (drawn or output) / "samples.npz"]
    write_npz(files[0], measure(arrays, test_images=cell.kind == "pixelcnn_pp"))
    write_npz(files[1], {name: array[:shown] for name, array in arrays.items()})
    write_npz(files[2], arrays)
    record.write(output / "measures.json", files, threads=torch.get_num_threads())
