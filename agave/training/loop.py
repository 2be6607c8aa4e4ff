"""One training loop, for pretraining and for joint training."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from agave.bounds import Terms, objective
from agave.config import Training
from agave.draws import piece_of_batch
from agave.errors import UserError
from agave.likelihoods import bits_per_dim
from agave.models.agave import AGAVE
from agave.runtime.checkpoints import RollingState, load_weights
from agave.runtime.devices import Group
from agave.runtime.progress import Progress

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
class Pace:
    """How a step is computed: speed and memory change with it, results only by rounding.

    Attributes:
        autocast: dtype of the convolutions, or None for float32.
        piece: most images computed at once on a device; None: all that it is given of a batch.
        checkpointing: compute activations again in the backward pass instead of keeping them.
        compile: let torch.compile fuse the network.
    """

    autocast: torch.dtype | None = None
    piece: int | None = None
    checkpointing: bool = False
    compile: bool = False


Row = dict[str, float | int | None]


@dataclass(frozen=True)
class Result:
    """What a training leaves.

    Attributes:
        averaged: weights averaged over the steps (EMA), by name.
        raw: weights of the last step.
        history: one row per interval, bits/dim of x.
        skipped: updates that were skipped.
        resumed: the steps at which it went on from a saved state.
    """

    averaged: dict[str, Tensor]
    raw: dict[str, Tensor]
    history: list[Row]
    skipped: int
    resumed: list[int]


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
    pace: Pace | None = None,
    group: Group | None = None,
    stop: Stop | None = None,
    label: str = "train",
    watch: Callable[[Row], None] | None = None,
) -> Result:
    """Train a model that is already initialised, from its saved state if there is one.

    Args:
        model: on the device where it shall run; of several processes, that of rank 0 counts.
        x_uint8: (N, 3, H, W), the whole training set, on that device.
        y_uint8: (N, 3, r, r), the auxiliary images.
        goal: what is minimized.
        options: steps, batch, learning rate and the like.
        seed: of data order, dropout and latent noise.
        state: where the rolling state lies; rank 0 writes it.
        pace: how a step is computed.
        group: the processes that train together.
        stop: how often to save and when to stop early.
        label: for the progress bar.
        watch: called by rank 0 with each new row of the history.

    Returns:
        Weights and history; averaged weights and history are those of rank 0.

    Raises:
        InterruptedTrainingError: a signal or the time limit stopped the run; its state is saved.
        UserError: too many updates in a row had to be skipped, or the batch cannot be divided.

    Source: AGAVE paper, section 4.1 (Adamax, constant learning rate).
    """
    pace, group, stop = pace or Pace(), group or Group(), stop or Stop()
    _check_division(model, options, pace, group)
    device, dimensions = x_uint8.device, x_uint8[0].numel()
    optimizer = torch.optim.Adamax(model.parameters(), lr=options.learning_rate, foreach=True)
    # PAPER: weight averaging is not mentioned; both reference codebases evaluate averaged weights.
    averaged = AveragedModel(model, multi_avg_fn=lambda average, current, updates: ema_update(average, current, updates, options.ema_decay))
    interval = max(1, options.steps // HISTORY_ROWS)
    # since the last row of the history: bits/dim terms, gradient norm, number of updates; this process's share of them
    sums = torch.zeros(len(COLUMNS) + 2, dtype=torch.float64, device=device)
    step, skipped, skipped_in_a_row = 0, 0, 0
    history: list[Row] = []
    resumed: list[int] = []

    saved = state.load() if group.leads else None
    group.wait()  # what is damaged is gone before the others look
    saved = saved if group.leads else state.load()
    if saved is not None:
        tensors, facts = saved
        _restore(tensors, model, averaged, optimizer, state)
        sums = tensors["sums"].to(device) if group.leads else sums
        step, skipped, skipped_in_a_row, history = facts["step"], facts["skipped"], facts["skipped_in_a_row"], facts["history"]
        resumed = [*facts["resumed"], step]

    def save(keep: int = 2) -> None:
        total = group.total(sums)
        if group.leads:
            facts = {"step": step, "skipped": skipped, "skipped_in_a_row": skipped_in_a_row, "history": history, "resumed": resumed}
            state.save(step, _collect(model, averaged, optimizer) | {"sums": total}, facts, keep)
        group.wait()  # a process that ends has torchrun end the others, who must not be cut off while they write

    model.train()
    model.checkpoint_activations(pace.checkpointing)
    if pace.compile:
        model.compile()
    # some parameters never get a gradient: the topmost residual branch of the VAE, without auxiliary loss the scales of y
    network = DistributedDataParallel(model, find_unused_parameters=model.vae is not None) if group.size > 1 else model
    began = last_save = last_row = time.monotonic()
    first_of_row = step
    with stopping_signals() as stopped, Progress(options.steps, label, "step", step, quiet=not group.leads) as progress:
        if resumed:
            progress.say(f"resumed at step {step}")
        while step < options.steps:
            indices = batch_indices(step, options.batch, len(x_uint8), seed)
            for param_group in optimizer.param_groups:
                param_group["lr"] = learning_rate(options, step)
            row = torch.zeros_like(sums)
            pieces = _pieces(group.rows(options.batch), pace.piece)
            for piece in pieces:
                chosen = torch.from_numpy(indices[piece.start : piece.stop]).to(device)
                last = piece is pieces[-1]
                with piece_of_batch(seed, step, piece.start, options.batch), _alone(network, not last):
                    with torch.autocast(device.type, dtype=pace.autocast, enabled=pace.autocast is not None):
                        terms = network(x_uint8[chosen], y_uint8[chosen])
                        share = len(piece) / options.batch
                        loss = objective(terms, goal.kl_weight, goal.auxiliary) * share
                    (loss * group.size).backward()  # type: ignore[no-untyped-call]  # DistributedDataParallel averages over processes
                row[: len(COLUMNS)] += share * torch.stack(_bits(terms, dimensions))
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            row[len(COLUMNS) :] = torch.stack([norm.double(), torch.ones_like(norm, dtype=torch.float64)]) / group.size
            if float(norm) <= options.skip_gradient_norm:  # false if it is not finite; the one value of a step that the host waits for
                optimizer.step()
                if group.leads:
                    averaged.update_parameters(model)
                sums += row
                skipped_in_a_row = 0
            else:
                skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
                problem = _describe(group.total(row), options.skip_gradient_norm)
                progress.say(f"update of step {step} (images {_some(indices)}) skipped: {problem}")
                if skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
                    raise UserError(
                        f"{label}: {skipped_in_a_row} updates in a row up to step {step} had to be skipped: {problem}; "
                        f"the last saved state is in {state.folder}; lower the learning rate or raise skip_gradient_norm"
                    )
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % interval == 0 or step == options.steps:
                total, now = group.total(sums), time.monotonic()
                means = (total[:-1] / total[-1]).tolist() if total[-1] > 0 else None
                speed = (step - first_of_row) * options.batch / (now - last_row)
                history.append(_history_row(step, means, terms, learning_rate(options, step - 1), skipped, speed))
                sums.zero_()
                last_row, first_of_row = now, step
                if watch is not None and group.leads:
                    watch(history[-1])
            progress.update(1, _last_note(history))
            now = time.monotonic()
            expired = stop.time_limit is not None and now - began > stop.time_limit
            stopping, late, due = _agree(group, device, stopped.is_set(), expired, now - last_save > stop.save_every)
            if step < options.steps and (stopping or late):
                save()
                reason = "interrupted" if stopping else "time limit reached"
                raise InterruptedTrainingError(f"{label}: {reason} at step {step} of {options.steps}, run again to resume")
            if due:
                save()
                last_save = time.monotonic()
        save(keep=1)  # a finished run that is asked for again needs no step
    return Result(_clean(averaged.module), _clean(model), history, skipped, resumed)


def _check_division(model: AGAVE, options: Training, pace: Pace, group: Group) -> None:
    if group.size > options.batch:
        raise UserError(f"{group.size} devices for a batch of {options.batch} images; accepted: at most as many devices as images")
    in_pieces = group.size > 1 or (pace.piece is not None and pace.piece < options.batch)
    if in_pieces and model.vae is not None and model.options.vae.free_bits > 0:
        raise UserError(
            f"model.vae.free_bits {model.options.vae.free_bits:g} needs the mean over the whole batch, which is computed in pieces; "
            "accepted: free_bits 0, or one device and compute.images_per_pass null"
        )


def _pieces(rows: range, largest: int | None) -> list[range]:
    """Rows cut into pieces of at most `largest`."""
    return [rows] if largest is None else [rows[first : first + largest] for first in range(0, len(rows), largest)]


def _alone(network: nn.Module, alone: bool) -> AbstractContextManager[object]:
    """Leave the exchange of gradients between processes to the last piece of a step."""
    return network.no_sync() if alone and isinstance(network, DistributedDataParallel) else nullcontext()


def _agree(group: Group, device: torch.device, stopped: bool, expired: bool, due: bool) -> tuple[bool, bool, bool]:
    """What all processes do next: any of them may have been told to stop, the clock of rank 0 counts."""
    if group.size == 1:
        return stopped, expired, due
    flags = torch.tensor([stopped, expired and group.leads, due and group.leads], dtype=torch.int32, device=device)
    said, late, save = group.total(flags).tolist()
    return said > 0, late > 0, save > 0


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


def _history_row(step: int, means: list[float] | None, terms: Terms, rate: float, skipped: int, speed: float) -> Row:
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
        "images_per_second": speed,
    }


def _describe(row: Tensor, limit: float) -> str:
    """Which of the terms of a step are not finite, or that the gradient is too long."""
    values = dict(zip((*COLUMNS, "gradient_norm"), row.tolist(), strict=False))
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    fault = f"{', '.join(bad)} not finite" if bad else f"gradient_norm above skip_gradient_norm {limit:g}"
    return fault + " (" + ", ".join(f"{name} {value:.4g}" for name, value in values.items()) + ")"


def _some(indices: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    return ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")


def _last_note(history: list[Row]) -> str:
    total = history[-1]["total"] if history else None
    return "" if total is None else f"{total:.3f} bits/dim"


def _clean(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _collect(model: AGAVE, averaged: AveragedModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors that decide the next step; data order and random numbers are functions of seed and step."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()} | {f"ema/{k}": v for k, v in averaged.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in entries.items()}
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
