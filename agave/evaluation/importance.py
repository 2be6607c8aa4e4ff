"""Compute the importance-sampled bound (IWAE) of many images: streaming, in shards, and resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from agave.bounds import StreamingLogMeanExp
from agave.data.arrays import read_array_file, write_npz
from agave.errors import UserError
from agave.models.interface import LikelihoodModel
from agave.models.layers import folded
from agave.random_numbers import POSTERIOR, KeyedNumbers
from agave.runtime.checkpoints import RollingState
from agave.runtime.interruption import InterruptedWorkError, Stop, stopping_signals
from agave.runtime.prefetch import Arriving, made_ahead, started_ahead
from agave.runtime.progress import Progress

Array = NDArray[np.float64]

GROWTH = (1, 2, 5, 10, 50, 150)
"""Numbers of samples at which the bound is recorded, to show how it grows."""


def growth_samples(samples: int) -> list[int]:
    """Return the numbers of samples at which the bound with `samples` samples is kept: those of GROWTH below it, and itself."""
    return [count for count in GROWTH if count < samples] + [samples]


@torch.inference_mode()
def iwae_bounds(
    model: LikelihoodModel,
    x_uint8: Tensor,
    y_uint8: Tensor,
    *,
    samples: int,
    seed: int,
    batch: int,
    first: int = 0,
    state: RollingState | None = None,
    stop: Stop | None = None,
    label: str = "iwae",
) -> dict[str, Array]:
    """Compute the importance-weighted bound on log p(x) for every image (Burda et al. 2016, Eq. 8).

    The samples of an image are computed in even chunks of at most `batch` and never held together. Images are never computed
    together, so the values do not depend on how the images are split into pieces, not even in the last digit.

    Args:
        model: a model whose bound has random numbers, in evaluation mode; without them all numbers of samples give the same value.
        x_uint8: (N, 3, H, W).
        y_uint8: (N, 3, r, r).
        samples: number of samples K, at least 1.
        seed: seed of the latent noise, keyed by image and sample; sample 0 is that of `one_sample_terms`.
        batch: image samples per forward pass.
        first: index of the first image, when a larger set is evaluated in pieces.
        state: where finished images are kept, from which a later call resumes; None keeps nothing.
        stop: how often to save and when to stop early.
        label: name shown by the progress bar.

    Returns:
        "iwae" and "elbo" (mean of the log-weights): (N,) nats, float64. "growth": (N, G) nats, the bound with `growth_samples` samples.

    Raises:
        ValueError: `samples` or `batch` is below 1.
        InterruptedWorkError: a signal or the time limit stopped the run; its state is saved.
    """
    if samples < 1 or batch < 1:
        raise ValueError(f"samples {samples}, batch {batch}; accepted: at least 1 each")
    kept, stop = growth_samples(samples), stop or Stop()
    done = _load(state, len(kept) + 1)  # rows of (growth..., elbo)
    began = last_save = time.monotonic()
    with stopping_signals() as stopped, folded(model), Progress(len(x_uint8), label, "image", len(done)) as progress:
        for log_weights in _log_weights(model, x_uint8, y_uint8, range(len(done), len(x_uint8)), first, samples, seed, batch):
            done.append(_bounds_of(log_weights, kept))
            progress.update()
            expired = stop.time_limit is not None and time.monotonic() - began > stop.time_limit
            interrupted = len(done) < len(x_uint8) and (stopped.is_set() or expired)
            due = interrupted or time.monotonic() - last_save > stop.save_every or len(done) == len(x_uint8)
            if state is not None and due:
                state.save(len(done), {"values": torch.tensor(done, dtype=torch.float64)}, {}, keep=1)
                last_save = time.monotonic()
            if interrupted:
                reason = "interrupted" if stopped.is_set() else "time limit reached"
                raise InterruptedWorkError(f"{label}: {reason} after {len(done)} of {len(x_uint8)} images, run again to resume")
    return _by_name(done, len(kept) + 1)


def _by_name(rows: list[list[float]], columns: int) -> dict[str, Array]:
    values = np.array(rows, dtype=np.float64).reshape(-1, columns)
    return {"iwae": values[:, -2].copy(), "elbo": values[:, -1].copy(), "growth": values[:, :-1].copy()}


def _load(state: RollingState | None, columns: int) -> list[list[float]]:
    saved = state.load() if state is not None else None
    values = saved[0]["values"] if saved is not None else torch.empty(0, columns)
    rows: list[list[float]] = values.tolist()
    return rows


def _log_weights(
    model: LikelihoodModel, x: Tensor, y: Tensor, images: range, first: int, samples: int, seed: int, batch: int
) -> Iterator[list[Arriving]]:
    """Yield the log-weights of each image, nats, in chunks; a GPU has begun with the next image by then."""
    chunks = [chunk.tolist() for chunk in np.array_split(np.arange(samples), -(-samples // batch))]
    sources = ((len(chunk), KeyedNumbers(seed, POSTERIOR, [first + image] * len(chunk), chunk)) for image in images for chunk in chunks)
    noises = made_ahead(model.draw_noise, sources, x.device)

    def weights_of(image: int) -> list[Arriving]:
        encoding, found = model.encode(x[image : image + 1]), []
        for chunk in chunks:
            n = len(chunk)
            rows, x_rows = tree_map(
                lambda one, n=n: one.expand(n, *one.shape[1:]) if isinstance(one, Tensor) else one, (encoding, x[image : image + 1])
            )
            y_rows = y[image : image + 1].expand(n, *y.shape[1:]) if model.likelihood_of == "y" else None
            found.append(Arriving(model.terms(rows, x_rows, y_rows, next(noises)).log_prob.double()))
        return found

    return started_ahead(map(weights_of, images), x.device)


def _bounds_of(log_weights: Sequence[Arriving], kept: Sequence[int]) -> list[float]:
    """Return the bounds of one image with the numbers of samples `kept`, and the mean of all log-weights, nats."""
    stream, total, bounds = StreamingLogMeanExp(()), 0.0, []
    for chunk in log_weights:
        for log_weight in chunk.values():  # one by one: the sum does not depend on the chunks
            stream.update(log_weight)
            total += float(log_weight)
            if stream.count in kept:
                bounds.append(float(stream.result()))
    return [*bounds, total / kept[-1]]


def parse_shard(text: str) -> tuple[int, int]:
    """Read "2-of-8": the number of a shard, from 1, and the number of shards.

    Raises:
        UserError: the text is of another form.
    """
    number, found, count = text.partition("-of-")
    if not (found and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UserError(f"shard '{text}'; accepted: NUMBER-of-COUNT with NUMBER from 1 to COUNT, for example 2-of-8")
    return int(number), int(count)


def shard_range(number: int, count: int, images: int) -> range:
    """Return the images of shard `number` of `count`: consecutive ones, in numbers that differ by at most one.

    Raises:
        UserError: there are more shards than images.
    """
    if count > images:
        raise UserError(f"{count} shards for {images} images; accepted: 1 to {images}")
    return range((number - 1) * images // count, number * images // count)


def shard_path(folder: Path, number: int, count: int) -> Path:
    """Return the file of a shard."""
    return folder / f"iwae-{number}-of-{count}.npz"


def write_shard(path: Path, values: dict[str, Array], first: int, identity: str) -> None:
    """Write the values of a shard, with what identifies its evaluation."""
    write_npz(path, {**values, "first": np.array(first), "identity": np.array(identity)})


def gather_shards(folder: Path, count: int, images: int, identity: str) -> dict[str, Array]:
    """Join the values of all images from the files of all shards.

    Raises:
        UserError: a file is missing, damaged, or of another model or another evaluation.
    """
    pieces = []
    for number in range(1, count + 1):
        path, wanted = shard_path(folder, number, count), shard_range(number, count, images)
        arrays = read_array_file(path)
        if set(arrays) != {"iwae", "elbo", "growth", "first", "identity"} or str(arrays["identity"]) != identity:
            raise UserError(
                f"{path}: a shard of another model or evaluation; make it again with: agave evaluate iwae --shard {number}-of-{count}"
            )
        if int(arrays["first"]) != wanted.start or any(len(arrays[name]) != len(wanted) for name in ("iwae", "elbo", "growth")):
            raise UserError(f"{path}: not images {wanted.start} to {wanted.stop - 1}, as shard {number} of {count} of {images} images is")
        pieces.append(arrays)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in ("iwae", "elbo", "growth")}
