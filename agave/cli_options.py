"""Options that the sub-commands of `agave` share, and the device and threads on which a step runs."""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click
import yaml

from agave import config, grid
from agave.cli_shared_process import run_there
from agave.config import Params
from agave.config_types import LARGEST_SEED
from agave.errors import UserError

FolderArgument = click.Path(file_okay=False, path_type=Path)
FileArgument = click.Path(exists=True, dir_okay=False, path_type=Path)


class Mistake(click.ClickException):
    """A mistake that the user can mend, shown in one line for each thing that is wrong; exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message."""
        for line in self.message.splitlines():
            click.echo(f"error: {line}", file=file, err=file is None)


class Command(click.Command):
    """A command that shows mistakes of the user and refusals of the machine as single lines, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except UserError as error:
            raise Mistake(str(error)) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends quietly
            raise Mistake(f"{error.filename or self.name}: {error.strerror or error}") from None
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not re.search("out of memory|can't allocate memory", str(error)):
                raise
            raise Mistake(
                f"{self.name}: not enough memory ({' '.join(str(error).split())[:200]}); accepted: fewer images at once "
                "(batch, compute.images_per_pass, sample.batch, --memory) or a larger machine"
            ) from None


class CommandGroup(click.Group):
    """A command with sub-commands."""

    command_class = Command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command, in a shared process if there is one. A character that the terminal's encoding lacks, such as λ, is no error."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        code = None if args or kwargs else run_there(sys.argv[1:])
        if code is not None:
            sys.exit(code)
        return super().main(*args, **kwargs)


def preset_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a step the parameter file and the preset: it is called with `params`."""

    @click.option("--params", "params_file", type=FileArgument, default="params.yaml", help="File of the parameters.")
    @click.option("--preset", help="Preset of that file (default: the one that the file names).")
    @functools.wraps(command)
    def wrapped(params_file: Path, preset: str | None, **arguments: Any) -> None:
        command(params=config.load(params_file, preset), **arguments)

    return wrapped


def results_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a step the results of a preset: it is called with `params`, the preset's name and the folder."""

    @preset_options
    @click.option("--results", type=FolderArgument, required=True, help="Folder of the preset's results, results/PRESET.")
    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        command(preset=preset_name(click.get_current_context()), **arguments)

    return wrapped


def all_of(*options: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds options, in the order in which the help shows them."""
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


dry_run_option = click.option("--dry-run", is_flag=True, help="Print the resolved options and do nothing.")
data_option = click.option("--data", type=FolderArgument, required=True, help="Folder written by `agave prepare`.")
place_options = all_of(
    click.option(
        "--device",
        type=click.Choice(["cpu", "cuda", "auto"]),
        help="Device to run on (default: the preset's compute.device); auto takes a GPU if there is one.",
    ),
    click.option("--threads", type=click.IntRange(min=1), metavar="NUMBER", help="Number of CPU threads (default: one per core)."),
    dry_run_option,
)
state_options = all_of(
    click.option(
        "--state-dir", type=FolderArgument, default="work", help="Folder of the saved states from which the same command resumes."
    ),
    click.option(
        "--save-every",
        type=click.FloatRange(min=0),
        default=300.0,
        metavar="SECONDS",
        envvar="AGAVE_SAVE_EVERY",
        help="Time between saved states in seconds; also $AGAVE_SAVE_EVERY.",
    ),
    click.option(
        "--time-limit",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Time in seconds after which the state is saved and the command stops with exit code 1 (default: none).",
    ),
)
seed_of_training = click.option(
    "--seed", type=click.IntRange(0, LARGEST_SEED), default=0, metavar="SEED", help="Seed of weights, data order and noise."
)
training_options = all_of(
    seed_of_training,
    data_option,
    click.option("--output", type=FolderArgument, required=True, help="Folder for the trained weights."),
    state_options,
    click.option(
        "--devices",
        type=click.IntRange(min=0),
        default=1,
        metavar="NUMBER",
        help="Number of GPUs, or of processes on a CPU, that share a batch; 0: as many as $CUDA_VISIBLE_DEVICES names.",
    ),
    click.option(
        "--tensorboard",
        type=FolderArgument,
        envvar="AGAVE_TENSORBOARD",
        help="Folder for TensorBoard (default: none); also $AGAVE_TENSORBOARD.",
    ),
    place_options,
)
model_options = all_of(
    click.argument("cell"),
    preset_options,
    click.option("--seed", type=click.IntRange(0, LARGEST_SEED), default=0, metavar="SEED", help="Seed with which the model was trained."),
    data_option,
    click.option("--model", type=FileArgument, required=True, help="File model.safetensors of the cell."),
    click.option("--output", type=FolderArgument, required=True, help="Folder for the results."),
)


def cell_of(params: Params, name: str) -> grid.Cell:
    """Return the cell of a name."""
    return grid.parse_cell(name, params.prepare.image_size, params.pretrain.vae_kl_weight)


def only_shown(dry_run: bool, blocks: dict[str, Any], **arguments: Any) -> bool:
    """Print the resolved options as YAML in a dry run; return whether it is one."""
    if dry_run:
        shown = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items() if v is not None}
        click.echo(yaml.safe_dump(shown | blocks, sort_keys=False), nl=False)
    return dry_run


def preset_name(context: click.Context) -> str:
    """Return the preset that a sub-command runs: the one given, or the one that the parameter file names."""
    return str(context.params["preset"] or config.read(context.params["params_file"])["preset"])


def blocks_of(params: Params, *names: str) -> dict[str, Any]:
    """Return blocks of the parameters as plain values."""
    return {name: getattr(params, name).model_dump() for name in names}


def _launch(devices: int) -> None:
    """Start this command again with torchrun, one process per device, unless this process is one of them.

    torchrun replaces this process, so that it gets the signals. It hands them on and gives the processes ten minutes to save.
    """
    devices = devices or len(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(","))  # for a site that gives GPUs by another name
    if devices > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={devices}", "--shutdown-timeout=600"]
        os.execv(sys.executable, [sys.executable, "-m", *torchrun, "-m", "agave.cli", *sys.argv[1:]])


def place_of(
    step: str,
    system: str,
    device: str | None,
    threads: int | None,
    state_dir: Path = Path("work"),
    devices: int = 1,
    tensorboard: Path | None = None,
    **limits: Any,
) -> Any:
    """Return where a training or evaluation runs (`agave.training.job.Place`), in as many processes as there are devices."""
    _launch(devices)
    from agave.provenance.code_digest import digest
    from agave.runtime.devices import Place
    from agave.runtime.interruption import Stop

    return Place(state=state_dir, device=device, threads=threads, stop=Stop(**limits), source=digest(step, system), tensorboard=tensorboard)
