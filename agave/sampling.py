"""The step `sample`: images from the PixelCNN, and the reconstructions and samples of the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.arrays import load as load_images
from agave.arrays import write_npz
from agave.cached import CachedPixelCNN
from agave.cells import Cell
from agave.config import Params
from agave.errors import UserError
from agave.likelihoods import sample_discretized_logistic, sample_mixture
from agave.model import AGAVE, scale_to_unit
from agave.noise import PIXELS, PIXELS_GIVEN_POSTERIOR, PIXELS_GIVEN_PRIOR, POSTERIOR, PRIOR, keyed_noise, keyed_uniforms
from agave.pixelcnn import PixelCNN
from agave.progress import Progress
from agave.provenance import Record
from agave.runs import Place, images_to_tensor, load_model, set_up


@torch.inference_mode()
def sample(
    pixelcnn: PixelCNN,
    features: Tensor | None = None,
    *,
    batch: int,
    shape: tuple[int, int],
    seed: int,
    cached: bool = True,
    teacher: Tensor | None = None,
    return_logits: bool = False,
    first: int = 0,
    stream: int = PIXELS,
    round_pixels: bool = True,
    label: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw images from a PixelCNN, pixel by pixel in raster order.

    Args:
        pixelcnn: the network; dropout is off while sampling.
        features: (B, feature_channels, H, W), f(z) in [-1, 1] at the size of x; None: unconditional.
        batch: number of images B.
        shape: (H, W) of the images, or (3, H, W).
        seed: of the noise, keyed by image: the images do not depend on how many are drawn at once.
        cached: every activation once; False runs the whole network for every pixel (slow, for checking).
        teacher: (B, 3, H, W) uint8; the pixels are set to these instead of being drawn.
        return_logits: also return the logits that each pixel was drawn from.
        first: index of the first image, when a larger set is drawn in pieces.
        stream: what the noise is for, see `noise`.
        round_pixels: feed each pixel back rounded to 8 bits; False: unrounded, as published.
        label: show progress under this name.

    Returns:
        (B, 3, H, W) uint8; with `return_logits` also (B, 10 K, H, W).

    Raises:
        ValueError: a shape does not fit.
    """
    height, width = shape[-2:]
    pixelcnn.check((batch, 3, height, width), features)
    if teacher is not None and (tuple(teacher.shape) != (batch, 3, height, width) or teacher.is_floating_point()):
        raise ValueError(f"teacher is {teacher.dtype} {tuple(teacher.shape)}; accepted: uint8 {(batch, 3, height, width)}")
    like = pixelcnn.out.gain
    was_training = pixelcnn.training
    pixelcnn.eval()
    forced = scale_to_unit(teacher, like.dtype).to(like.device) if teacher is not None else None
    images = range(first, first + batch)
    uniforms = keyed_uniforms(seed, stream, images, (height, width, pixelcnn.mixtures + 3), like) if forced is None else None
    x = torch.zeros(batch, 3, height, width, dtype=like.dtype, device=like.device)
    all_logits = torch.empty(batch, 10 * pixelcnn.mixtures, height, width, dtype=like.dtype, device=like.device) if return_logits else None
    cache = CachedPixelCNN(pixelcnn, batch, height, width, features) if cached else None
    progress = Progress(height, label, "row") if label else None
    for row in range(height):
        if cache is not None:
            cache.start_row(row)
        for column in range(width):
            logits = cache.logits(column) if cache is not None else pixelcnn(x, features)[:, :, row, column]
            if all_logits is not None:
                all_logits[:, :, row, column] = logits
            if forced is not None:
                pixel = forced[:, :, row, column]
            else:
                assert uniforms is not None
                noise = uniforms[:, row, column]  # (B, K + 3)
                pixel = sample_mixture(logits, noise[:, :-3], noise[:, -3:], round_pixels)
            x[:, :, row, column] = pixel
            if cache is not None:
                cache.write(column, pixel)
        if cache is not None:
            cache.end_row()
        if progress is not None:
            progress.update()
    pixelcnn.train(was_training)
    x_uint8 = torch.round(x * 127.5 + 127.5).to(torch.uint8)
    return x_uint8 if all_logits is None else (x_uint8, all_logits)


def draw(params: Params, cell: Cell, seed: int, data: Path, weights: Path, output: Path, place: Place) -> None:
    """Make the images of a cell that the figures show, with the same test images and noise for every cell.

    Writes samples.npz, uint8 (N, height, width, 3). A cell with a VAE: original, reconstruction (f(z), z from the posterior),
    prior (f(z), z from the prior). With a PixelCNN besides: reconstruction_sample and prior_sample given these f(z). The VAE
    alone: prior_draw, a draw from p(y|z). The PixelCNN alone: prior_sample.

    Args:
        params: of the preset.
        cell: which model.
        seed: of its training.
        data: folder of `agave prepare`.
        weights: model.safetensors of the cell.
        output: folder for samples.npz and samples.json.
        place: where it runs.

    Raises:
        UserError: bad input.
    """
    device = set_up(params.compute, place.device, place.threads)
    images = load_images(data, "test")
    count = params.sample.images
    if count > len(images):
        raise UserError(f"sample.images {count}: there are only {len(images)} test images")
    model = load_model(weights, params.model, params.prepare.image_size, cell).to(device).eval()
    options = {"cell": cell.name, "seed": seed, "sample": params.sample.model_dump()}
    record = Record("sample", options, {"images": data / "test.npy", "model": weights}, str(device))
    x_uint8 = images_to_tensor(images[:count], device)
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, count, params.sample.batch):
        piece = _draw_batch(model, x_uint8[start : start + params.sample.batch], start, params, f"sample {cell.name} seed {seed}")
        for name, tensor in piece.items():
            parts.setdefault(name, []).append(tensor)
    arrays = {name: _to_array(torch.cat(tensors)) for name, tensors in parts.items()}
    write_npz(output / "samples.npz", arrays)
    record.write(output / "samples.json", [output / "samples.npz"], threads=torch.get_num_threads())


@torch.inference_mode()
def _draw_batch(model: AGAVE, x_uint8: Tensor, start: int, params: Params, label: str) -> dict[str, Tensor]:
    count, size, seed = len(x_uint8), params.prepare.image_size, params.sample.seed
    images = range(start, start + count)

    def pixels(features: Tensor | None, stream: int, name: str) -> Tensor:
        assert model.pixelcnn is not None
        drawn = sample(
            model.pixelcnn,
            features,
            batch=count,
            shape=(size, size),
            seed=seed,
            first=start,
            stream=stream,
            round_pixels=params.sample.round_pixels,
            label=f"{label} {name}",
        )
        assert isinstance(drawn, Tensor)
        return drawn

    if model.vae is None:
        return {"prior_sample": pixels(None, PIXELS_GIVEN_PRIOR, "prior")}
    like = next(model.parameters())
    found = {"original": x_uint8}
    for name, stream, pixel_stream in (
        ("reconstruction", POSTERIOR, PIXELS_GIVEN_POSTERIOR),
        ("prior", PRIOR, PIXELS_GIVEN_PRIOR),
    ):
        records = model.vae.encode(x_uint8) if stream == POSTERIOR else None
        mean, _ = model.vae.decode(records, count, keyed_noise(seed, stream, images, [0] * count, like))
        found[name] = torch.floor(mean).clamp(0, 255).to(torch.uint8)  # value v occupies [v, v + 1)
        if model.pixelcnn is not None:
            found[f"{name}_sample"] = pixels(model.features(mean), pixel_stream, name)
        elif name == "prior":
            uniforms = keyed_uniforms(seed, pixel_stream, images, tuple(mean.shape[1:]), like)
            found["prior_draw"] = sample_discretized_logistic(mean, model.vae.log_scale, uniforms, model.levels)
    return found


def _to_array(x: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) uint8 tensor -> (N, H, W, 3) array."""
    return np.ascontiguousarray(x.cpu().permute(0, 2, 3, 1).numpy())
