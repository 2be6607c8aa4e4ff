"""The training loop of every system, for pretraining and for joint training."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import register_dataclass

from agave.config import Training
from agave.errors import UserError
from agave.models.interface import LikelihoodModel, Terms
from agave.objective import Objective, objective
from agave.random_numbers import StepNumbers
from agave.runtime.checkpoints import RollingState, load_weights
from agave.runtime.devices import Group
from agave.runtime.interruption import InterruptedWorkError, Stop, stopping_signals
from agave.runtime.prefetch import hand_over
from agave.runtime.progress import Progress
from agave.training.history import COLUMNS, Row, bits_of_terms, describe_fault, history_row, last_note
from agave.training.schedule import batch_indices, learning_rate
from agave.training.weights import FlatWeights

HISTORY_ROWS = 100  # of a whole run, whatever its length
MAX_SKIPPED_IN_A_ROW = 50
MAX_SKIPPED_SHARE = 0.25  # of all updates; a training that skipped more is no training with these parameters
register_dataclass(Terms)  # else DistributedDataParallel finds no tensors in it and, with a static graph, exchanges nothing


@dataclass(frozen=True)
class Pace:
    """The way a step is computed. It changes speed and memory, and results only by rounding.

    Attributes:
        autocast: dtype of the convolutions, or None for float32.
        piece: most images computed at once on a device; None: all that it is given of a batch.
        checkpointing: compute activations again in the backward pass instead of keeping them.
        compile: let torch.compile fuse the network.
        allreduce: dtype in which several processes add their gradients.
    """

    autocast: torch.dtype | None = None
    piece: int | None = None
    checkpointing: bool = False
    compile: bool = False
    allreduce: torch.dtype = torch.float32


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        averaged: weights averaged over the steps (EMA), by name.
        raw: weights of the last step.
        history: one row per interval, bits/dim of x.
        skipped: number of updates that were skipped.
        resumed: steps at which the training resumed from a saved state.
        parameters: number of trainable numbers.
    """

    averaged: dict[str, Tensor]
    raw: dict[str, Tensor]
    history: list[Row]
    skipped: int
    resumed: list[int]
    parameters: int


@dataclass
class Position:
    """The progress of a training, without its tensors."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    history: list[Row] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)


class Trainer:
    """Train an initialised model, from its saved state if there is one.

    Args:
        model: the model on the device where it is trained; with several processes, the weights of rank 0 count.
        x_uint8: (N, 3, H, W), the whole training set, on that device.
        y_uint8: (N, 3, r, r), the auxiliary images.
        goal: the loss.
        options: steps, batch, learning rate and so on.
        seed: seed of data order, dropout and latent noise.
        state: the rolling state on disk; rank 0 writes it.
        pace: the way a step is computed.
        group: the processes that train together.
        stop: how often to save and when to stop early.
        label: name shown by the progress bar.
        watch: function that rank 0 calls with each new row of the history.

    Raises:
        UserError: the batch cannot be divided.

    Source: AGAVE paper, section 4.1 (Adamax, constant learning rate).
    """

    def __init__(
        self,
        model: LikelihoodModel,
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
    ) -> None:
        self.model, self.x_uint8, self.y_uint8, self.goal, self.options = model, x_uint8, y_uint8, goal, options
        self.seed, self.state, self.label, self.watch = seed, state, label, watch
        self.pace, self.group, self.stop = pace or Pace(), group or Group(), stop or Stop()
        self._check_division()
        self.device, self.dimensions = x_uint8.device, x_uint8[0].numel()
        self.weights = FlatWeights(model)
        self.interval = max(1, options.steps // HISTORY_ROWS)
        # sums since the last row of the history: bits/dim terms, gradient norm, number of updates; the share of this process
        self.sums = torch.zeros(len(COLUMNS) + 2, dtype=torch.float64, device=self.device)
        self.at = Position()
        self.network: nn.Module = model

    def run(self) -> TrainingResult:
        """Train to the end.

        Returns:
            Weights and history; averaged weights and history are those of rank 0.

        Raises:
            InterruptedWorkError: a signal or the time limit stopped the run; its state is saved.
            UserError: too many updates in a row had to be skipped.
        """
        self.restore()
        self.prepare()
        self.begin_row()
        began = last_save = time.monotonic()
        with (
            stopping_signals() as stopped,
            Progress(self.options.steps, self.label, "step", self.at.step, quiet=not self.group.leads) as progress,
        ):
            if self.at.resumed:
                progress.say(f"resumed at step {self.at.step}")
            while self.at.step < self.options.steps:
                self.advance(progress)
                now = time.monotonic()
                expired = self.stop.time_limit is not None and now - began > self.stop.time_limit
                stopping, late, due = self._agree(stopped.is_set(), expired, now - last_save > self.stop.save_every)
                if self.at.step < self.options.steps and (stopping or late):
                    self.save()
                    reason = "interrupted" if stopping else "time limit reached"
                    raise InterruptedWorkError(
                        f"{self.label}: {reason} at step {self.at.step} of {self.options.steps}, run again to resume"
                    )
                if due:
                    self.save()
                    last_save = time.monotonic()
            self.save(keep=1)  # a finished run that is asked for again needs no step
        at, parameters = self.at, sum(parameter.numel() for parameter in self.model.parameters())
        averaged, raw = self.weights.averaged_state(), self.weights.state()
        return TrainingResult(averaged, raw, at.history, at.skipped, at.resumed, parameters)

    def restore(self) -> None:
        """Resume from the saved state, if there is one."""
        saved = self.state.load() if self.group.leads else None
        self.group.wait()  # rank 0 has removed damaged files before the other ranks look
        saved = saved if self.group.leads else self.state.load()
        if saved is None:
            return
        tensors, facts = saved
        self._restore_tensors(tensors)
        self.sums = tensors["sums"].to(self.device) if self.group.leads else self.sums
        self.at = Position(**facts)
        self.at.resumed = [*self.at.resumed, self.at.step]

    def advance(self, progress: Progress) -> None:
        """Make a step and count it; write a row of the history where one is due."""
        terms = self.train_step(progress)
        self.at.step += 1
        if self.at.step % self.interval == 0 or self.at.step == self.options.steps:
            self.log_row(terms)
        progress.update(1, last_note(self.at.history))

    def train_step(self, progress: Progress) -> Terms:
        """Compute the gradient of one batch, piece by piece, and update the weights, unless the gradient is not finite or too large.

        Returns:
            The terms of the last piece.
        """
        step, options = self.at.step, self.options
        indices = batch_indices(step, options.batch, len(self.x_uint8), self.seed)
        row = torch.zeros_like(self.sums)
        pieces = self._own_pieces()
        for piece in pieces:
            terms = self._forward_backward(indices, piece, last=piece is pieces[-1])
            row[: len(COLUMNS)] += len(piece) / options.batch * torch.stack(bits_of_terms(terms, self.dimensions))
        norm = self.weights.collect_gradient()
        row[len(COLUMNS) :] = torch.stack([norm.double(), torch.ones_like(norm, dtype=torch.float64)]) / self.group.size
        if float(norm) <= options.skip_gradient_norm:  # false if it is not finite; the one value of a step that the host waits for
            self.weights.update(learning_rate(options, step), options.ema_decay)
            self.sums += row
            self.at.skipped_in_a_row = 0
        else:
            self._skip(indices, row, progress)
        return terms

    def _forward_backward(self, indices: np.ndarray[Any, np.dtype[np.int64]], piece: range, last: bool) -> Terms:
        """Add the gradient of some rows of a batch to that of the others."""
        pace, batch = self.pace, self.options.batch
        chosen = hand_over(torch.from_numpy(indices[piece.start : piece.stop]), self.device)
        noise = self.model.draw_noise(len(piece), StepNumbers(self.seed, self.at.step, piece.start, batch))
        with self._alone(not last):
            with torch.autocast(self.device.type, dtype=pace.autocast, enabled=pace.autocast is not None):
                terms: Terms = self.network(self.x_uint8[chosen], self.y_uint8[chosen], noise)
                loss = objective(terms, self.goal.kl_weight, self.goal.auxiliary) * (len(piece) / batch)
            (loss * self.group.size).backward()  # type: ignore[no-untyped-call]  # DistributedDataParallel averages over processes
        return terms

    def _skip(self, indices: np.ndarray[Any, np.dtype[np.int64]], row: Tensor, progress: Progress) -> None:
        at = self.at
        at.skipped, at.skipped_in_a_row = at.skipped + 1, at.skipped_in_a_row + 1
        problem = describe_fault(self.group.total(row), self.options.skip_gradient_norm)
        progress.say(f"update of step {at.step} (images {_some(indices)}) skipped: {problem}")
        limit = MAX_SKIPPED_SHARE * self.options.steps
        if at.skipped_in_a_row > MAX_SKIPPED_IN_A_ROW or at.skipped > limit:
            many = f"{at.skipped_in_a_row} updates in a row up to step {at.step}"
            if at.skipped > limit:
                many = f"{at.skipped} of {self.options.steps} updates, more than {MAX_SKIPPED_SHARE:.0%},"
            self.save()
            raise UserError(
                f"{self.label}: {many} had to be skipped: {problem}; "
                f"the last saved state is in {self.state.folder}; lower the learning rate or raise skip_gradient_norm"
            )

    def log_row(self, terms: Terms) -> None:
        """Add a row to the history: means since the last row.

        Args:
            terms: terms of any batch, which show what terms the system has.
        """
        total, now, at = self.group.total(self.sums), time.monotonic(), self.at
        means = (total[:-1] / total[-1]).tolist() if total[-1] > 0 else None
        speed = (at.step - self._row_first) * self.options.batch / (now - self._row_began)
        at.history.append(history_row(at.step, means, terms, learning_rate(self.options, at.step - 1), at.skipped, speed))
        self.sums.zero_()
        self.begin_row()
        if self.watch is not None and self.group.leads:
            self.watch(at.history[-1])

    def begin_row(self) -> None:
        """Start the sums and the clock of the next row of the history."""
        self._row_began, self._row_first = time.monotonic(), self.at.step

    def save(self, keep: int = 2) -> None:
        """Write the state and keep the last `keep` files."""
        total = self.group.total(self.sums)
        if self.group.leads:
            self.state.save(self.at.step, self._collect_tensors() | {"sums": total}, vars(self.at), keep)
        self.group.wait()  # torchrun ends all processes when one exits, so none may exit while rank 0 writes

    def prepare(self) -> None:
        """Make the model ready for `train_step`: memory, compilation, other processes."""
        self.model.train()
        self.model.checkpoint_activations(self.pace.checkpointing)
        if self.pace.compile:
            self.model.compile()
        if self.group.size > 1:
            self.network = _data_parallel(self.model, self.pace, one_pass=len(self._own_pieces()) == 1)

    def _own_pieces(self) -> list[range]:
        return _pieces(self.group.rows(self.options.batch), self.pace.piece)

    def _alone(self, alone: bool) -> AbstractContextManager[object]:
        """Exchange gradients between processes only at the last piece of a step."""
        return self.network.no_sync() if alone and isinstance(self.network, DistributedDataParallel) else nullcontext()

    def _check_division(self) -> None:
        options, pace, group = self.options, self.pace, self.group
        if group.size > options.batch:
            raise UserError(f"{group.size} devices for a batch of {options.batch} images; accepted: at most as many devices as images")
        in_pieces = group.size > 1 or (pace.piece is not None and pace.piece < options.batch)
        needs = self.model.needs_whole_batch()
        if in_pieces and needs is not None:
            raise UserError(
                f"{needs} needs the mean over the whole batch, which is computed in pieces; "
                f"accepted: {needs.rsplit(' ', 1)[0]} 0, or one device and compute.images_per_pass null"
            )

    def _agree(self, stopped: bool, expired: bool, due: bool) -> tuple[bool, bool, bool]:
        """Return what all processes do next. Any of them may have been told to stop; the clock of rank 0 counts."""
        if self.group.size == 1:
            return stopped, expired, due
        leads = self.group.leads
        flags = torch.tensor([stopped, expired and leads, due and leads], dtype=torch.int32, device=self.device)
        said, late, save = self.group.total(flags).tolist()
        return said > 0, late > 0, save > 0

    def _collect_tensors(self) -> dict[str, Tensor]:
        """Return all tensors that determine the next step; data order and random numbers are functions of seed and step."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        return tensors | {f"training/{name}": tensor for name, tensor in self.weights.tensors.items()}

    def _restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        weights = {name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")}
        load_weights(self.model, weights, self.state.folder)
        for name, tensor in self.weights.tensors.items():
            tensor.copy_(tensors[f"training/{name}"])


def _data_parallel(model: LikelihoodModel, pace: Pace, one_pass: bool) -> DistributedDataParallel:
    """Return the model for one of several processes: gradients lie in the buckets that are exchanged while the backward pass goes on."""
    fixed = one_pass and not model.unused_parameters  # every step reaches the same parameters in the same order, once
    network = DistributedDataParallel(
        model, find_unused_parameters=model.unused_parameters, gradient_as_bucket_view=True, static_graph=fixed
    )
    if pace.allreduce == torch.bfloat16:
        network.register_comm_hook(None, bf16_compress_hook)
    return network


def _pieces(rows: range, largest: int | None) -> list[range]:
    """Return rows cut into pieces of at most `largest`."""
    return [rows] if largest is None else [rows[first : first + largest] for first in range(0, len(rows), largest)]


def _some(indices: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    return ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
