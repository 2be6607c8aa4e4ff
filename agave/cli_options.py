"""What the sub-commands of `agave` share: their common options, and how a step is given its place and its run record."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

from agave import config, grid
from agave.config import Params

FolderArgument = click.Path(file_okay=False, path_type=Path)
FileArgument = click.Path(exists=True, dir_okay=False, path_type=Path)


def preset_options(command: Callable[..., None]) -> Callable[..., None]:
    """The parameter file and the preset: the step is given `params`."""

    @click.option("--params", "params_file", type=FileArgument, default="params.yaml", help="The parameter file.")
    @click.option("--preset", default=None, help="Which preset of it; default: the one that the file names.")
    @functools.wraps(command)
    def wrapped(params_file: Path, preset: str | None, **arguments: Any) -> None:
        command(params=config.load(params_file, preset), **arguments)

    return wrapped


def results_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a step that works on the results of a preset: it is given `params`, the preset's name and the folder."""

    @preset_options
    @click.option("--results", type=FolderArgument, required=True, help="Folder of the preset, results/PRESET.")
    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        command(preset=preset_name(click.get_current_context()), **arguments)

    return wrapped


def _all_of(options: list[Callable[..., Any]], command: Callable[..., None]) -> Callable[..., None]:
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def state_options(command: Callable[..., None]) -> Callable[..., None]:
    """Where a long job keeps its state, and when it stops."""
    options: list[Callable[..., Any]] = [
        click.option("--state-dir", type=FolderArgument, default="work", help="Folder of the rolling states that a rerun resumes from."),
        click.option(
            "--save-every",
            type=click.FloatRange(min=0),
            default=300.0,
            metavar="SECONDS",
            envvar="AGAVE_SAVE_EVERY",
            help="Time between saved states.",
        ),
        click.option("--time-limit", type=click.FloatRange(min=0), metavar="SECONDS", help="Save and stop after this time; exit code 1."),
    ]
    return _all_of(options, command)


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a training."""
    options: list[Callable[..., Any]] = [
        click.option("--seed", type=click.IntRange(min=0), default=0, help="Of weights, data order and noise."),
        click.option("--data", type=FolderArgument, required=True, help="Folder made by `agave prepare`."),
        click.option("--output", type=FolderArgument, required=True, help="Folder for the trained weights."),
        state_options,
        click.option(
            "--devices",
            type=click.IntRange(min=0),
            default=1,
            help="GPUs (processes on a CPU) that share a batch; 0: $CUDA_VISIBLE_DEVICES.",
        ),
        click.option(
            "--tensorboard", type=FolderArgument, envvar="AGAVE_TENSORBOARD", help="Folder for TensorBoard; also $AGAVE_TENSORBOARD."
        ),
        *place_options,
    ]
    return _all_of(options, command)


place_options = [
    click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Overrides the preset's compute.device."),
    click.option("--threads", type=click.IntRange(min=1), help="Processor threads; default: all cores."),
    click.option("--dry-run", is_flag=True, help="Print the resolved options and do nothing."),
]


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a step that uses a trained model."""
    options: list[Callable[..., Any]] = [
        click.argument("cell"),
        click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the training."),
        click.option("--data", type=FolderArgument, required=True, help="Folder made by `agave prepare`."),
        click.option("--model", type=FileArgument, required=True, help="model.safetensors of the cell."),
        click.option("--output", type=FolderArgument, required=True, help="Folder for the results."),
        *place_options,
    ]
    return _all_of(options, command)


def cell_of(params: Params, name: str) -> grid.Cell:
    """The cell of a name."""
    return grid.parse(name, params.prepare.image_size, params.pretrain.vae_kl_weight)


def only_shown(dry_run: bool, blocks: dict[str, Any], **arguments: Any) -> bool:
    """With --dry-run: print what would be used, as YAML."""
    if dry_run:
        shown = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items() if v is not None}
        click.echo(yaml.safe_dump(shown | blocks, sort_keys=False), nl=False)
    return dry_run


def preset_name(context: click.Context) -> str:
    """The preset that a sub-command runs: the one given, or the one that the parameter file names."""
    return str(context.params["preset"] or config.read(context.params["params_file"])["preset"])


@contextmanager
def recorded(step: str, options: dict[str, Any], inputs: dict[str, Path], record: Path) -> Iterator[list[Path]]:
    """Write the run record of a step, unless it fails; the step adds the files that it wrote to the list."""
    from agave.provenance.run_record import recording

    with recording(step, options, inputs, record) as run:
        yield run.outputs


def blocks_of(params: Params, *names: str) -> dict[str, Any]:
    """Blocks of the parameters as plain values."""
    return {name: getattr(params, name).model_dump() for name in names}


def _launch(devices: int) -> None:
    """Start this command again as several processes by torchrun, one a device, unless it is one of them already.

    The command is replaced, so that signals reach torchrun; it hands them on and leaves the processes ten minutes to save.
    """
    devices = devices or len(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(","))  # for a site that gives GPUs by another name
    if devices > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={devices}", "--shutdown-timeout=600"]
        os.execv(sys.executable, [sys.executable, "-m", *torchrun, "-m", "agave.cli", *sys.argv[1:]])


def place_of(
    step: str,
    device: str | None,
    threads: int | None,
    state_dir: Path = Path("work"),
    devices: int = 1,
    tensorboard: Path | None = None,
    **limits: Any,
) -> Any:
    """Where a training or evaluation runs (`agave.runs.Place`), in as many processes as there are devices."""
    _launch(devices)
    from agave.provenance.code_digest import digest
    from agave.runtime.devices import Place
    from agave.runtime.interruption import Stop

    return Place(state=state_dir, device=device, threads=threads, stop=Stop(**limits), source=digest(step), tensorboard=tensorboard)
