"""One training loop, for pretraining and for joint training."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from agave.bounds import Terms, objective
from agave.checkpoints import RollingState, load_weights
from agave.config import Training
from agave.errors import UserError
from agave.likelihoods import bits_per_dim
from agave.model import AGAVE
from agave.progress import Progress

HISTORY_ROWS = 100  # of a whole run, whatever its length
MAX_SKIPPED_IN_A_ROW = 50
COLUMNS = ("kl", "vae_reconstruction", "pixelcnn_reconstruction", "total")


class InterruptedTrainingError(UserError):
    """Training stopped before its end with its state saved."""


@dataclass(frozen=True)
class Objective:
    """What is minimized.

    Attributes:
        kl_weight: the paper's lambda.
        auxiliary: whether log p(y|z) counts (Eq. 7) or not (Eq. 6).
    """

    kl_weight: float
    auxiliary: bool = True


@dataclass(frozen=True)
class Stop:
    """When to stop early, and how often to save.

    Attributes:
        save_every: seconds between saved states.
        time_limit: seconds after which to save and stop; None: no limit.
    """

    save_every: float = 300.0
    time_limit: float | None = None


@dataclass(frozen=True)
class Result:
    """What a training leaves.

    Attributes:
        averaged: weights averaged over the steps (EMA), by name.
        raw: weights of the last step.
        history: one row per interval, bits/dim of x.
        skipped: updates that were skipped.
    """

    averaged: dict[str, Tensor]
    raw: dict[str, Tensor]
    history: list[dict[str, float | int | None]]
    skipped: int


def learning_rate(options: Training, step: int) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up, constant, linear cool-down."""
    rate = options.learning_rate
    if step < options.warmup_steps:
        rate *= (step + 1) / options.warmup_steps
    left = options.steps - step
    if left <= options.cooldown_steps:
        rate *= left / options.cooldown_steps
    return rate


def batch_indices(step: int, batch: int, images: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Which images form the batch of a step: consecutive pieces of seeded permutations, one per epoch.

    A function of the step alone, so that a resumed run sees what an uninterrupted one would have seen.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // images
    return np.array([_order(int(epoch), images, seed)[position % images] for epoch, position in zip(epochs, positions, strict=True)])


@lru_cache(maxsize=4)
def _order(epoch: int, images: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng([seed, epoch]).permutation(images)


def ema_update(averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int, decay: float) -> None:
    """Averaged <- d averaged + (1 - d) current with d = min(decay, (1 + t) / (10 + t)): early steps are forgotten quickly.

    Source: the debiased form of the published PixelCNN++ average; TensorFlow's ExponentialMovingAverage.
    """
    t = int(updates)
    torch._foreach_lerp_(list(averaged), list(current), 1.0 - min(decay, (1 + t) / (10 + t)))


def train(
    model: AGAVE,
    x_uint8: Tensor,
    y_uint8: Tensor,
    goal: Objective,
    options: Training,
    *,
    seed: int,
    state: RollingState,
    autocast: torch.dtype | None = None,
    stop: Stop | None = None,
    label: str = "train",
) -> Result:
    """Train a model that is already initialised, from its saved state if there is one.

    Args:
        model: on the device where it shall run.
        x_uint8: (N, 3, H, W), the whole training set, on that device.
        y_uint8: (N, 3, r, r), the auxiliary images.
        goal: what is minimized.
        options: steps, batch, learning rate and the like.
        seed: of data order, dropout and latent noise.
        state: where the rolling state lies.
        autocast: dtype of the convolutions, or None for float32.
        stop: how often to save and when to stop early.
        label: for the progress bar.

    Returns:
        Weights and history.

    Raises:
        InterruptedTrainingError: a signal or the time limit stopped the run; its state is saved.
        UserError: too many updates in a row had to be skipped.

    Source: AGAVE paper, section 4.1 (Adamax, constant learning rate).
    """
    stop = stop or Stop()
    device, dimensions = x_uint8.device, x_uint8[0].numel()
    optimizer = torch.optim.Adamax(model.parameters(), lr=options.learning_rate, foreach=True)
    # PAPER: weight averaging is not mentioned; both reference codebases evaluate averaged weights.
    averaged = AveragedModel(model, multi_avg_fn=lambda average, current, updates: ema_update(average, current, updates, options.ema_decay))
    torch.manual_seed(seed)
    interval = max(1, options.steps // HISTORY_ROWS)
    # since the last row of the history: bits/dim terms, gradient norm, number of updates
    sums = torch.zeros(len(COLUMNS) + 2, dtype=torch.float64, device=device)
    step, skipped, skipped_in_a_row = 0, 0, 0
    history: list[dict[str, float | int | None]] = []

    saved = state.load()
    if saved is not None:
        tensors, facts = saved
        _restore(tensors, model, averaged, optimizer, state)
        sums = tensors["sums"].to(device)
        step, skipped, skipped_in_a_row, history = facts["step"], facts["skipped"], facts["skipped_in_a_row"], facts["history"]

    def save(keep: int = 2) -> None:
        facts = {"step": step, "skipped": skipped, "skipped_in_a_row": skipped_in_a_row, "history": history}
        state.save(step, _collect(model, averaged, optimizer) | {"sums": sums}, facts, keep)

    model.train()
    began = last_save = time.monotonic()
    with stopping_signals() as stopped, Progress(options.steps, label, "step", step) as progress:
        while step < options.steps:
            indices = torch.from_numpy(batch_indices(step, options.batch, len(x_uint8), seed)).to(device)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(options, step)
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                terms = model(x_uint8[indices], y_uint8[indices])
                loss = objective(terms, goal.kl_weight, goal.auxiliary)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            row = torch.stack([*_bits(terms, dimensions), norm.double(), torch.ones_like(norm, dtype=torch.float64)])
            if bool(torch.isfinite(norm)) and float(norm) <= options.skip_gradient_norm:
                optimizer.step()
                averaged.update_parameters(model)
                sums += row
                skipped_in_a_row = 0
            else:
                skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
                progress.say(f"update of step {step} skipped: {_describe(row)}")
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
                raise UserError(
                    f"{label}: {skipped_in_a_row} updates in a row up to step {step} had a gradient norm that is not finite or above "
                    f"skip_gradient_norm {options.skip_gradient_norm:g} ({_describe(row)}); lower the learning rate"
                )
            note = ""
            if step % interval == 0 or step == options.steps:
                means = (sums[:-1] / sums[-1]).tolist() if sums[-1] > 0 else None
                history.append(_history_row(step, means, terms, learning_rate(options, step - 1), skipped))
                note = _last_note(history)
                sums.zero_()
            progress.update(1, note or _last_note(history))
            expired = stop.time_limit is not None and time.monotonic() - began > stop.time_limit
            if step < options.steps and (stopped.is_set() or expired):
                save()
                reason = "interrupted" if stopped.is_set() else "time limit reached"
                raise InterruptedTrainingError(f"{label}: {reason} at step {step} of {options.steps}, run again to resume")
            if time.monotonic() - last_save > stop.save_every:
                save()
                last_save = time.monotonic()
        save(keep=1)  # a finished run that is asked for again needs no step
    return Result(_clean(averaged.module), _clean(model), history, skipped)


@contextmanager
def stopping_signals() -> Iterator[threading.Event]:
    """While active, TERM and INT set the event instead of killing the process; the step in hand is finished."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bits(terms: Terms, dimensions: int) -> list[Tensor]:
    """Batch means of KL, VAE reconstruction, PixelCNN reconstruction and total, bits/dim of x; zero where absent."""
    zero = torch.zeros((), dtype=torch.float64, device=terms.kl.device)

    def mean(nats: Tensor | None) -> Tensor:
        return zero if nats is None else torch.as_tensor(bits_per_dim(nats.detach().double().mean(), dimensions))

    kl, y, x = mean(terms.kl), -mean(terms.log_prob_y), -mean(terms.log_prob_x)
    return [kl, y, x, kl + (x if terms.log_prob_x is not None else y)]


def _history_row(step: int, means: list[float] | None, terms: Terms, rate: float, skipped: int) -> dict[str, float | int | None]:
    found: list[float | None] = [*means] if means is not None else [None] * 5  # None: every update since the last row was skipped
    kl, y, x, total, norm = found
    return {
        "step": step,
        "kl": kl if terms.log_prob_y is not None else None,
        "vae_reconstruction": y if terms.log_prob_y is not None else None,
        "pixelcnn_reconstruction": x if terms.log_prob_x is not None else None,
        "total": total,
        "gradient_norm": norm,
        "learning_rate": rate,
        "skipped": skipped,
    }


def _describe(row: Tensor) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in zip((*COLUMNS, "gradient norm"), row.tolist(), strict=False))


def _last_note(history: list[dict[str, float | int | None]]) -> str:
    total = history[-1]["total"] if history else None
    return "" if total is None else f"{total:.3f} bits/dim"


def _clean(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _collect(model: AGAVE, averaged: AveragedModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that decides the next step, as named tensors."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()} | {f"ema/{k}": v for k, v in averaged.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in entries.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def _restore(
    tensors: dict[str, Tensor], model: AGAVE, averaged: AveragedModel, optimizer: torch.optim.Optimizer, state: RollingState
) -> None:
    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}

    load_weights(model, part("model"), state.folder)
    load_weights(averaged, part("ema"), state.folder)
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer").items():
        index, name = key.split("/")
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
