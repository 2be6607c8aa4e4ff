"""The command `agave evaluate` and its sub-commands."""

from __future__ import annotations

from typing import Any

import click

from agave.cli_options import (
    CommandGroup,
    blocks_of,
    cell_of,
    dry_run_option,
    model_options,
    only_shown,
    place_of,
    place_options,
    state_options,
)
from agave.config import Params


@click.group(cls=CommandGroup)
def evaluate() -> None:
    """Evaluate a model of the grid on the test images: bounds in bits per dimension."""


memory_option = click.option(
    "--memory",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="Memory for networks and activations in MiB (default: 80 % of what is free on a GPU, half of a core's share on a CPU).",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    help="Precision of the convolutions; bfloat16 is for a quick look, not for reports.",
)


@evaluate.command()
@model_options
@memory_option
@precision_option
@place_options
def bound(params: Params, cell: str, dry_run: bool, memory: int | None, precision: str, **arguments: Any) -> None:
    """Evaluate the one-sample bound of CELL, split into its terms; for pixelcnn_pp it is the exact likelihood."""
    found, blocks = cell_of(params, cell), blocks_of(params, "model", "compute", "evaluate")
    if only_shown(dry_run, blocks, cell=cell, memory=memory, precision=precision, **arguments):
        return
    from agave.steps.evaluate import Evaluation, Options, evaluate_bound

    seed, data, model, output = (arguments.pop(name) for name in ("seed", "data", "model", "output"))
    options = Options(None, None if memory is None else memory * 2**20, precision)
    evaluation = Evaluation(params, found, seed, data, model, output, options)
    evaluate_bound(evaluation, place_of("evaluate", found.system, **arguments))


@evaluate.command()
@model_options
@click.option("--shard", metavar="I-of-N", help="Part of the images, written as iwae-I-of-N.npz for `gather` (default: all images).")
@memory_option
@precision_option
@state_options
@place_options
def iwae(params: Params, cell: str, shard: str | None, dry_run: bool, memory: int | None, precision: str, **arguments: Any) -> None:
    """Evaluate the importance-sampled bound of CELL with evaluate.iwae_samples samples."""
    found, blocks = cell_of(params, cell), blocks_of(params, "model", "compute", "evaluate")
    if only_shown(dry_run, blocks, cell=cell, shard=shard, memory=memory, precision=precision, **arguments):
        return
    from agave.evaluation.importance import parse_shard
    from agave.steps.evaluate import Evaluation, Options, evaluate_iwae

    seed, data, model, output = (arguments.pop(name) for name in ("seed", "data", "model", "output"))
    options = Options(parse_shard(shard) if shard else None, None if memory is None else memory * 2**20, precision)
    evaluation = Evaluation(params, found, seed, data, model, output, options)
    evaluate_iwae(evaluation, place_of("evaluate", found.system, **arguments))


@evaluate.command()
@model_options
@click.argument("parts", metavar="N", type=click.IntRange(min=1))
@precision_option
@dry_run_option
def gather(params: Params, cell: str, parts: int, dry_run: bool, precision: str, **arguments: Any) -> None:
    """Join the N parts of the importance-sampled bound of CELL that lie in the output folder; needs no GPU."""
    found = cell_of(params, cell)
    if only_shown(dry_run, blocks_of(params, "evaluate"), cell=cell, parts=parts, precision=precision, **arguments):
        return
    from agave.steps.evaluate import Evaluation, Options, gather_iwae

    seed, data, model, output = (arguments[name] for name in ("seed", "data", "model", "output"))
    gather_iwae(Evaluation(params, found, seed, data, model, output, Options(precision=precision)), parts)
