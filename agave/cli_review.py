"""The commands `agave verify`, `agave crate` and `agave pretrained`."""

from __future__ import annotations

from pathlib import Path

import click

from agave.cli_options import Command, FileArgument, FolderArgument, preset_name, preset_options, results_options
from agave.config import Params


@click.command(cls=Command)
@preset_options
@click.option("--claims", "path", type=FileArgument, default="claims.yaml", help="File of the claims and their tests.")
@click.pass_context
def verify(context: click.Context, params: Params, path: Path) -> None:
    """Check the results of a preset, redraw them and decide the claims again; exit code 0 only if all is well.

    It changes nothing: neither the results nor what Snakemake has recorded about them.
    """
    from agave.review.verify import verify as run

    preset = preset_name(context)
    if not run(params, preset, Path("results") / preset, path, click.echo):
        context.exit(1)


@click.command(cls=Command)
@results_options
@click.option("--output", type=FolderArgument, required=True, help="Folder for the crate; an earlier crate there is replaced.")
def crate(params: Params, preset: str, results: Path, output: Path) -> None:
    """Gather workflow, small results and their provenance in a folder for deposit, a Workflow Run RO-Crate."""
    from agave.review.crate import write_crate

    jobs = write_crate(params, preset, results, output)
    click.echo(f"{output}: RO-Crate of {jobs} jobs; check it with: rocrate-validator validate {output}")


@click.command(cls=Command)
@results_options
@click.option("--output", type=FolderArgument, default="pretrained", help="Folder for the models.")
def pretrained(params: Params, preset: str, results: Path, output: Path) -> None:
    """Copy the trained models that git keeps out of the results of a preset, with a card each; for after a new run of the demo."""
    from agave.provenance.lineage import read_all
    from agave.results import Results
    from agave.review.pretrained import write_pretrained

    source = Results(params, preset, results)
    for path in write_pretrained(source, read_all(source), output):
        click.echo(path)
