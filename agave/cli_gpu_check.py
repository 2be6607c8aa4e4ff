"""The sub-command `agave gpu-check`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from agave.cli_options import Command, FileArgument, FolderArgument


@click.command("gpu-check", cls=Command)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", help="Device to check.")
@click.option(
    "--size",
    type=click.Choice(["published", "tiny"]),
    default="published",
    help="Sizes of the networks: those of the preset paper, or those of the preset tiny, which a CPU can run in two minutes.",
)
@click.option(
    "--parts",
    default="environment,correctness,speed,learning",
    metavar="NAMES",
    help="Parts to run, separated by commas; the report is written in any case.",
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=20.0, metavar="MINUTES", help="Time for all parts in minutes."
)
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Array file or folder of images to learn from (default: the photographs that ship with the packages).",
)
@click.option("--params", "params_file", type=FileArgument, default="params.yaml", help="File of the parameters.")
@click.option(
    "--state-dir", type=FolderArgument, default="work/gpu-check", help="Folder of finished parts, from which the same command goes on."
)
@click.option("--output", type=FolderArgument, default="results/gpu", help="Folder for the reports, one folder a device.")
@click.pass_context
def gpu_check(
    context: click.Context,
    device: str,
    size: Literal["published", "tiny"],
    parts: str,
    minutes: float,
    images: Path | None,
    params_file: Path,
    state_dir: Path,
    output: Path,
) -> None:
    """Check a GPU before days of jobs: is the code right there, how fast, does it learn, what will the paper cost.

    Takes 20 minutes on one GPU; a run that was stopped goes on after its last finished part. Exit code 0 only if all checks passed.
    """
    from agave.gpu_check.runner import check_device

    if not check_device(
        device,
        size,
        parts.split(","),
        params_file=params_file,
        state=state_dir,
        output=output,
        minutes=minutes,
        images=images,
        say=lambda line: click.echo(line, err=True),
    ):
        context.exit(1)
