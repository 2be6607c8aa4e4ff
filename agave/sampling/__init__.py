"""The step `sample`: images from the PixelCNN, and the reconstructions and samples of the figures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.config import Params
from agave.data.arrays import load as load_images
from agave.data.arrays import write_npz
from agave.errors import UserError
from agave.grid import Cell
from agave.likelihoods import sample_discretized_logistic, sample_mixture
from agave.models.agave import AGAVE, scale_to_unit
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.noise import PIXELS, PIXELS_GIVEN_POSTERIOR, PIXELS_GIVEN_PRIOR, POSTERIOR, PRIOR, keyed_noise, keyed_uniforms
from agave.provenance.run_record import Record
from agave.runtime.devices import set_up
from agave.runtime.progress import Progress
from agave.sampling.cached_pixelcnn_pp import CachedPixelCNNpp
from agave.sampling.cuda_graphs import Steps
from agave.training.job import Place, images_to_tensor, load_model


@torch.inference_mode()
def sample(
    pixelcnn_pp: PixelCNNpp,
    features: Tensor | None = None,
    *,
    batch: int,
    shape: tuple[int, ...],
    seed: int,
    cached: bool = True,
    teacher: Tensor | None = None,
    return_logits: bool = False,
    first: int = 0,
    stream: int = PIXELS,
    round_pixels: bool = True,
    temperature: float = 1.0,
    given: Tensor | None = None,
    label: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw images from a PixelCNN, pixel by pixel in raster order.

    Args:
        pixelcnn_pp: the network; dropout is off while sampling.
        features: (B, feature_channels, H, W), f(z) in [-1, 1] at the size of x; None: unconditional.
        batch: number of images B.
        shape: (H, W) of the images, or (3, H, W).
        seed: of the noise, keyed by image: the images do not depend on how many are drawn at once.
        cached: every activation once; False runs the whole network for every pixel (slow, for checking).
        teacher: (B, 3, H, W) uint8; the pixels are set to these instead of being drawn; `given` does not count then.
        return_logits: also return the logits that each pixel was drawn from.
        first: index of the first image, when a larger set is drawn in pieces.
        stream: what the noise is for, see `noise`.
        round_pixels: feed each pixel back rounded to 8 bits; False: unrounded, as published.
        temperature: of the mixture, see `likelihoods.sample_mixture`; 1: the law of the model.
        given: (B, 3, h, W) uint8, the first h rows of the images, which are then completed.
        label: show progress under this name.

    Returns:
        (B, 3, H, W) uint8; with `return_logits` also (B, 10 K, H, W).

    Raises:
        ValueError: a shape does not fit, or the temperature is not positive.
    """
    height, width = shape[-2:]
    pixelcnn_pp.check((batch, 3, height, width), features)
    if not (0 < temperature < float("inf")):
        raise ValueError(f"temperature {temperature}; accepted: a positive number")
    known = given if teacher is None else teacher
    rows_known = 0 if known is None else known.shape[2] if known.ndim == 4 else -1
    rows_accepted = range(height + 1) if teacher is None else [height]
    if known is not None and (
        tuple(known.shape) != (batch, 3, rows_known, width) or rows_known not in rows_accepted or known.is_floating_point()
    ):
        name, rows = ("given", f"0 to {height}") if teacher is None else ("teacher", str(height))
        raise ValueError(f"{name} is {known.dtype} {tuple(known.shape)}; accepted: uint8 ({batch}, 3, {rows}, {width})")
    like = pixelcnn_pp.out.gain.detach()
    was_training = pixelcnn_pp.training
    pixelcnn_pp.eval()
    x = like.new_zeros(batch, 3, height, width)
    if known is not None:
        x[:, :, :rows_known] = scale_to_unit(known, like.dtype).to(like.device)
    uniforms = None
    if rows_known < height:
        uniforms = keyed_uniforms(seed, stream, range(first, first + batch), (height, width, pixelcnn_pp.mixtures + 3), like)
    all_logits = like.new_empty(batch, 10 * pixelcnn_pp.mixtures, height, width) if return_logits else None
    # one row of each, (W, B, ...), and its columns: a step reads and writes the same addresses in every row
    row_noise, row_x = like.new_empty(width, batch, pixelcnn_pp.mixtures + 3), like.new_empty(width, batch, 3)
    row_logits = like.new_empty(width, batch, 10 * pixelcnn_pp.mixtures)
    noise, pixels, kept = row_noise.unbind(), row_x.unbind(), row_logits.unbind()
    network: CachedPixelCNNpp | _FullPasses = (CachedPixelCNNpp if cached else _FullPasses)(pixelcnn_pp, batch, height, width, features)
    steps = Steps(like.device, record=cached)

    def step(draws: bool, column: int) -> None:
        logits = network.logits(column)
        if return_logits:
            kept[column].copy_(logits)
        if draws:
            pixels[column].copy_(sample_mixture(logits, noise[column][:, :-3], noise[column][:, -3:], round_pixels, temperature))
        network.write(column, pixels[column])

    progress = Progress(height, label, "row") if label else None
    for row in range(height):
        draws = row >= rows_known
        row_x.copy_(x[:, :, row].permute(2, 0, 1))
        if uniforms is not None:
            row_noise.copy_(uniforms[:, row].transpose(0, 1))
        network.start_row(row)
        for column in range(width):
            steps.run((network.phase, draws, column), partial(step, draws, column))
        network.end_row()
        x[:, :, row] = row_x.permute(1, 2, 0)
        if all_logits is not None:
            all_logits[:, :, row] = row_logits.permute(1, 2, 0)
        if progress is not None:
            progress.update()
    pixelcnn_pp.train(was_training)
    x_uint8 = torch.round(x * 127.5 + 127.5).to(torch.uint8)
    return x_uint8 if all_logits is None else (x_uint8, all_logits)


class _FullPasses:
    """The interface of `CachedPixelCNNpp` by a whole forward pass for every pixel: the slow reference."""

    phase = 0

    def __init__(self, model: PixelCNNpp, batch: int, height: int, width: int, features: Tensor | None) -> None:
        self.model, self.features, self.row = model, features, 0
        self.x = model.out.gain.detach().new_zeros(batch, 3, height, width)

    def start_row(self, row: int) -> None:
        self.row = row

    def logits(self, column: int) -> Tensor:
        logits: Tensor = self.model(self.x, self.features)
        return logits[:, :, self.row, column]

    def write(self, column: int, pixel: Tensor) -> None:
        self.x[:, :, self.row, column] = pixel

    def end_row(self) -> None:
        pass


def draw(params: Params, cell: Cell, seed: int, data: Path, weights: Path, output: Path, place: Place) -> None:
    """Make the images of a cell that the figures show, with the same test images and noise for every cell.

    Writes samples.npz, uint8 (N, height, width, 3). A cell with a VAE: original, reconstruction (f(z), z from the posterior),
    prior (f(z), z from the prior). With a PixelCNN besides: reconstruction_sample and prior_sample given these f(z), and
    completion, the original with all but its first rows drawn anew given the reconstruction's f(z). The VAE alone:
    prior_draw, a draw from p(y|z). The PixelCNN alone: original, prior_sample and completion.

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

    def pixels(features: Tensor | None, stream: int, name: str, given: Tensor | None = None) -> Tensor:
        assert model.pixelcnn_pp is not None
        drawn = sample(
            model.pixelcnn_pp,
            features,
            batch=count,
            shape=(size, size),
            seed=seed,
            first=start,
            stream=stream,
            round_pixels=params.sample.round_pixels,
            temperature=params.sample.temperature,
            given=given,
            label=f"{label} {name}",
        )
        assert isinstance(drawn, Tensor)
        return drawn

    given = x_uint8[:, :, : params.sample.completion_rows]
    if model.vae is None:
        drawn = {"prior_sample": pixels(None, PIXELS_GIVEN_PRIOR, "prior"), "completion": pixels(None, PIXELS, "completion", given)}
        return {"original": x_uint8} | drawn
    like = next(model.parameters())
    found = {"original": x_uint8}
    for name, stream, pixel_stream in (
        ("reconstruction", POSTERIOR, PIXELS_GIVEN_POSTERIOR),
        ("prior", PRIOR, PIXELS_GIVEN_PRIOR),
    ):
        records = model.vae.encode(x_uint8) if stream == POSTERIOR else None
        mean, _ = model.vae.decode(records, count, keyed_noise(seed, stream, images, [0] * count, like))
        found[name] = torch.floor(mean).clamp(0, 255).to(torch.uint8)  # value v occupies [v, v + 1)
        if model.pixelcnn_pp is not None:
            found[f"{name}_sample"] = pixels(model.features(mean), pixel_stream, name)
            if name == "reconstruction":
                found["completion"] = pixels(model.features(mean), PIXELS, "completion", given)
        elif name == "prior":
            uniforms = keyed_uniforms(seed, pixel_stream, images, tuple(mean.shape[1:]), like)
            found["prior_draw"] = sample_discretized_logistic(mean, model.vae.log_scale, uniforms, model.levels)
    return found


def _to_array(x: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) uint8 tensor -> (N, H, W, 3) array."""
    return np.ascontiguousarray(x.cpu().permute(0, 2, 3, 1).numpy())
