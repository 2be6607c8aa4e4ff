"""The command `agave`, with one sub-command per step. Nothing heavy is imported before a step runs."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from agave import config, config_schema, grid, presets
from agave.cli_codec import codec_command, compress, decompress, formats
from agave.cli_evaluate import evaluate
from agave.cli_gpu_check import gpu_check
from agave.cli_options import (
    CommandGroup,
    FileArgument,
    FolderArgument,
    blocks_of,
    cell_of,
    dry_run_option,
    model_options,
    only_shown,
    place_of,
    place_options,
    preset_name,
    preset_options,
    results_options,
    training_options,
)
from agave.cli_review import crate, pretrained, verify
from agave.config import Params
from agave.errors import UserError
from agave.files import atomic_write


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120})
@click.version_option(package_name="agave")
def main() -> None:
    """Reproduce "Auxiliary Guided Autoregressive Variational Autoencoders" (Lucas & Verbeek, 2017).

    Each sub-command is one step; `snakemake` runs them all in order. Values come from params.yaml.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character shows its number


for _command in (evaluate, codec_command, formats, verify, crate, pretrained, gpu_check, compress, decompress):
    main.add_command(_command)


@main.command("config")
@click.option("--params", "params_file", type=FileArgument, default="params.yaml", help="File of the parameters.")
@click.option("--preset", help="Preset of that file (default: the one that the file names).")
@click.option("--schema", is_flag=True, help="Print the JSON schema of the parameter file instead.")
def config_command(params_file: Path, preset: str | None, schema: bool) -> None:
    """Print the resolved parameters and which preset set each value; check all presets of the file."""
    if schema:
        click.echo(config_schema.schema_text(Params, presets.COMPLETE), nl=False)
        return
    document = config.read(params_file)
    chosen = str(document["preset"]) if preset is None else preset
    resolved = config.resolve(document, chosen, str(params_file)).model_dump()
    origins = presets.origins(document, chosen)
    lines = [(f"{key}: {json.dumps(value)}", origins.get(key, "")) for key, value in presets.flatten(resolved)]
    width = max(len(text) for text, _ in lines)
    click.echo(f"# preset {chosen} of {params_file}")
    for text, origin in lines:
        click.echo(f"{text:<{width}}  # {origin}")


@main.command()
@preset_options
@click.option("--output", type=FolderArgument, required=True, help="Folder for train.npy, test.npy and manifest.json.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Array file or folder of images that takes the place of prepare.source (default: none).",
)
@dry_run_option
def prepare(params: Params, output: Path, images: Path | None, dry_run: bool) -> None:
    """Get the images, verify, split and store them as uint8 arrays."""
    if only_shown(dry_run, blocks_of(params, "prepare"), output=output, images=images):
        return
    from agave.steps.prepare import run

    manifest = run(params, output, images)
    for split in ("train", "test"):
        click.echo(f"{manifest['name'][split]}: {manifest[split]['images']} images of {manifest['image_size']} pixels squared")


@main.command()
@click.argument("part", type=click.Choice(["vae", "pixelcnn_pp"]))
@preset_options
@click.option(
    "--resolution",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Height and width of y in pixels, for the VAE (default: the image size).",
)
@training_options
def pretrain(params: Params, part: str, resolution: int | None, dry_run: bool, **arguments: Any) -> None:
    """Train the VAE or the PixelCNN++ alone, from new weights."""
    resolution = resolution or params.prepare.image_size
    grid.check_resolution(resolution, params.prepare.image_size)
    blocks = blocks_of(params, "model", "compute") | {"pretrain": getattr(params.pretrain, part).model_dump()}
    if only_shown(dry_run, blocks, part=part, resolution=resolution, **arguments):
        return
    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    place = place_of("pretrain", grid.system_of(part), **arguments)
    from agave.steps.pretrain import run

    run(params, part, resolution, seed, data, output, place)


@main.command()
@click.argument("cell")
@preset_options
@click.option("--vae", type=FileArgument, help="File model.safetensors written by `agave pretrain vae`; needed for a cell with a VAE.")
@click.option(
    "--pixelcnn-pp",
    type=FileArgument,
    help="File model.safetensors written by `agave pretrain pixelcnn_pp`; needed for a cell with a PixelCNN++.",
)
@training_options
def joint(params: Params, cell: str, vae: Path | None, pixelcnn_pp: Path | None, dry_run: bool, **arguments: Any) -> None:
    """Train CELL, a model of the grid, from pretrained weights (Eq. 7).

    CELL is kl_weight~W-levels~B-resolution~R, with -auxiliary~none at the end for no auxiliary loss, or a baseline: vae, pixelcnn_pp.
    """
    found = cell_of(params, cell)
    if only_shown(dry_run, blocks_of(params, "model", "compute", "joint"), cell=cell, vae=vae, pixelcnn_pp=pixelcnn_pp, **arguments):
        return
    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    place = place_of("joint", found.system, **arguments)
    from agave.steps.joint import run

    run(params, found, seed, data, {"vae": vae, "pixelcnn_pp": pixelcnn_pp}, output, place)


@main.command()
@model_options
@click.option("--drawn", type=FolderArgument, help="Folder for all drawn images, samples.npz (default: that of --output).")
@place_options
def sample(params: Params, cell: str, dry_run: bool, model: Path, drawn: Path | None, **arguments: Any) -> None:
    """Draw reconstructions, samples and completions with CELL, measure them, and keep those that the figures show."""
    found = cell_of(params, cell)
    if only_shown(dry_run, blocks_of(params, "model", "compute", "sample"), cell=cell, model=model, drawn=drawn, **arguments):
        return
    from agave.steps.sample import run

    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    run(params, found, seed, data, model, output, place_of("sample", found.system, **arguments), drawn)


@main.command()
@results_options
def tables(params: Params, preset: str, results: Path) -> None:
    """Gather all bounds of the grid and write Table 1 (csv, markdown, LaTeX)."""
    from agave.steps.tables import run

    run(params, preset, results)


@main.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@results_options
def figures(names: tuple[str, ...], params: Params, preset: str, results: Path) -> None:
    """Draw the figures NAME, or all of them, as PDF and PNG, with the data behind each.

    NAME is one of 1a, 1b, 1c, 2, 3a, 3b, 4, 5a, 5b, 6, completions, samples, bits, table1, codec, growth and training.
    """
    from agave.steps.figures import run

    run(names, params, preset, results)


@main.command()
@results_options
def trainings(params: Params, preset: str, results: Path) -> None:
    """Gather the histories and run records of all trainings, which lie with the weights, in two small files."""
    from agave.steps.trainings import gather

    gather(params, preset, results)


@main.command()
@results_options
@click.option("--claims", "path", type=FileArgument, default="claims.yaml", help="File of the claims and their tests.")
def claims(params: Params, preset: str, results: Path, path: Path) -> None:
    """Decide the paper's claims by intervals over test images and seeds; all comparisons go to claims/claims.csv."""
    from agave.review.verify import claims_page
    from agave.steps.claims import run

    click.echo("\n".join(claims_page(run(params, preset, results, path))))


@main.command()
@results_options
def records(params: Params, preset: str, results: Path) -> None:
    """Sum up what each step cost, and write the SHA-256 of every small result."""
    from agave.steps.records import write_records

    write_records(params, preset, results)


@main.command()
@results_options
@click.option("--claims", "path", type=FileArgument, default="claims.yaml", help="File of the claims and their tests.")
def page(params: Params, preset: str, results: Path, path: Path) -> None:
    """Write page/index.html: every figure, table and verdict of the paper in one file, made from small results alone."""
    from agave.steps.page import run

    click.echo(run(params, preset, results, path))


@main.command()
@results_options
@click.option("--output", type=FolderArgument, required=True, help="Folder for the pages.")
def report(params: Params, preset: str, results: Path, output: Path) -> None:
    """Write the pages of the report that show text: Table 1, claims, compute, provenance. `make report` puts all into one file."""
    from agave.steps.report import NAMES, write_pages

    write_pages(params, preset, results, output)
    for name in NAMES:
        click.echo(output / f"{name}.html")


@main.command()
@results_options
@click.option("--aside", type=FolderArgument, help="Folder to move them to (default: the first new folder work/pruned/PRESET/NUMBER).")
@click.option("--dry-run", is_flag=True, help="Only print what would be moved.")
def prune(params: Params, preset: str, results: Path, aside: Path | None, dry_run: bool) -> None:
    """Move results of models that the grid does not name any more to a folder aside; nothing is deleted."""
    from agave.steps import prune

    if Path(os.path.abspath(results)).name != preset:  # a link to another disk may have another name there
        raise UserError(f"--results {results}: not the folder of the preset {preset}; accepted: a folder of that name, as results/{preset}")
    aside = aside or prune.free_folder(preset)
    paths = prune.stale(params, results)
    for path in paths:
        click.echo(f"{results / path} -> {aside / path}")
    if not dry_run:
        prune.set_aside(paths, results, aside)
        click.echo(f"{len(paths)} results set aside; one that is moved back counts as finished when the grid names it again")


@main.command()
@preset_options
@click.pass_context
def summary(context: click.Context, params: Params) -> None:
    """Print parameters, multiply-adds, memory and tensor shapes of the networks, without allocating them."""
    from agave.planning.summary import summarize, summary_text

    click.echo(summary_text(summarize(params), preset_name(context)), nl=False)


@main.command()
@preset_options
@click.option(
    "--tflops",
    type=float,
    metavar="TFLOPS",
    help="Sustained throughput of one device in training, in TFLOP/s (default: a figure for the preset's device).",
)
@click.option("--calibrate", is_flag=True, help="Measure the throughput here, by real training steps of the preset's networks: a minute.")
@click.option("--device-report", type=FileArgument, help="File report.json of `agave gpu-check`, whose measured throughput counts.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, metavar="NUMBER", help="Number of CPU cores that make one device, for --calibrate."
)
@click.option(
    "--gpus",
    "--devices",
    "devices",
    type=click.IntRange(min=1),
    default=1,
    metavar="NUMBER",
    help="Number of devices side by side, for the wall time.",
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File to write the plan to as well (default: none)."
)
@click.pass_context
def plan(
    context: click.Context,
    params: Params,
    tflops: float | None,
    calibrate: bool,
    device_report: Path | None,
    threads: int,
    devices: int,
    json_file: Path | None,
) -> None:
    """Print what a preset will cost before it runs: jobs, steps, arithmetic, memory and hours of each rule and in all."""
    from agave.planning import plan as planning

    if calibrate and tflops is not None:
        raise click.UsageError("--tflops and --calibrate exclude each other: one states the throughput, the other measures it.")
    if device_report is not None and (calibrate or tflops is not None):
        raise click.UsageError("--device-report excludes --tflops and --calibrate: all of them say what the throughput is.")
    throughput = planning.stated(params, tflops)
    if device_report is not None:
        from agave.planning.device_report import measured_throughput

        throughput = measured_throughput(device_report)
    if calibrate:
        from agave.planning.throughput import calibrate as measure

        click.echo("measuring this machine, about a minute ...", err=True)
        throughput = measure(params, threads)
    preset = preset_name(context)
    made = planning.make(params, throughput, devices)
    if json_file is not None:
        with atomic_write(json_file) as temporary:
            temporary.write_text(json.dumps({"preset": preset} | made, indent=2) + "\n", encoding="utf-8")
    click.echo(planning.plan_text(made, params, preset), nl=False)


@main.command()
@preset_options
def models(params: Params) -> None:
    """List the systems: name, whether their likelihood is exact or a bound (elbo), parameters at the preset's sizes."""
    from agave.planning.systems import table

    click.echo(table(params), nl=False)


@main.command("import-weights")
@click.argument("weights", type=FileArgument)
@preset_options
@click.option(
    "--output", type=FolderArgument, required=True, help="Folder for model.safetensors and what else `agave pretrain pixelcnn_pp` writes."
)
def import_weights(params: Params, weights: Path, output: Path) -> None:
    """Use PixelCNN++ weights trained elsewhere, in place of `agave pretrain pixelcnn_pp`.

    WEIGHTS is an .npz or .safetensors file of effective weights and biases by canonical name (docs/weights.md), for the
    sizes that the preset gives.
    """
    from agave.steps.import_weights import import_pixelcnn_pp

    import_pixelcnn_pp(params, weights, output)


@main.command("export-weights")
@click.argument("model", type=FileArgument)
@preset_options
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write, .npz or .safetensors.")
def export_weights(params: Params, model: Path, output: Path) -> None:
    """Write the pretrained PixelCNN++ of the file MODEL as effective weights and biases by canonical name."""
    from agave.steps.import_weights import export_pixelcnn_pp

    export_pixelcnn_pp(params, model, output)


@main.command()
@click.argument("step")
@click.option("--system", metavar="NAME", help="Leave out the models of other systems than this one (`agave models`).")
def digest(step: str, system: str | None) -> None:
    """Print the digest of the code that the results of STEP depend on, and the files that it covers."""
    from agave.models import REGISTRY
    from agave.provenance import code_digest

    if system is not None and system not in REGISTRY:
        raise UserError(f"there is no system '{system}'; accepted: {', '.join(REGISTRY)}")
    click.echo(code_digest.digest(step, system))
    for file in code_digest.files(step, system):
        click.echo(f"  {file}")


if __name__ == "__main__":
    sys.exit(main())
