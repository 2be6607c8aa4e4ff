"""The command `agave`: one sub-command a step. Nothing heavy is imported before a step runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from agave import config, grid
from agave.cli_options import (
    FileArgument,
    FolderArgument,
    blocks_of,
    cell_of,
    model_options,
    only_shown,
    place_of,
    preset_name,
    preset_options,
    recorded,
    results_options,
    state_options,
    training_options,
)
from agave.config import Params
from agave.errors import UserError
from agave.files import atomic_write


class _Command(click.Command):
    """Turns mistakes that a user can mend into one line and exit code 1 (2 for the command line itself)."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except UserError as error:
            raise click.ClickException(str(error)) from None


class _Group(click.Group):
    command_class = _Command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120})
@click.version_option(package_name="agave")
def main() -> None:
    """Reproduce "Auxiliary Guided Autoregressive Variational Autoencoders" (Lucas & Verbeek, 2017).

    Each sub-command is one step; `snakemake` runs them all in order. Values come from params.yaml.
    """


@main.command("config")
@click.option("--params", "params_file", type=FileArgument, default="params.yaml", help="The parameter file.")
@click.option("--preset", default=None, help="Which preset of it; default: the one that the file names.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of the parameter file instead.")
def config_command(params_file: Path, preset: str | None, schema: bool) -> None:
    """Print the resolved parameters and which preset set each value."""
    if schema:
        click.echo(config.schema_text(), nl=False)
        return
    document = config.read(params_file)
    chosen = str(document.get("preset")) if preset is None else preset
    resolved = config.resolve(document, chosen, str(params_file)).model_dump()
    origins = config.origins(document, chosen)
    lines = [(f"{key}: {json.dumps(value)}", origins.get(key, "")) for key, value in config.flatten(resolved)]
    width = max(len(text) for text, _ in lines)
    click.echo(f"# preset {chosen} of {params_file}")
    for text, origin in lines:
        click.echo(f"{text:<{width}}  # {origin}")


@main.command()
@preset_options
@click.option("--output", type=FolderArgument, required=True, help="Folder for train.npy, test.npy and manifest.json.")
@click.option("--images", type=click.Path(path_type=Path), help="Array file or folder of images, instead of prepare.source.")
@click.option("--dry-run", is_flag=True, help="Print the resolved options and do nothing.")
def prepare(params: Params, output: Path, images: Path | None, dry_run: bool) -> None:
    """Get the images, verify, split and store them as uint8 arrays."""
    if only_shown(dry_run, blocks_of(params, "prepare"), output=output, images=images):
        return
    from agave.data.sources import prepare as run

    path = images or (Path(params.prepare.path) if params.prepare.path else None)
    given = {"images": path} if path is not None and path.is_file() else {}  # else the files are named in the manifest
    with recorded("prepare", blocks_of(params, "prepare"), given, output / "run.json") as outputs:
        manifest = run(params.prepare, output, images)
        outputs += [output / name for name in ("train.npy", "test.npy", "manifest.json")]
    for split in ("train", "test"):
        click.echo(f"{manifest['name'][split]}: {manifest[split]['images']} images of {manifest['image_size']} pixels squared")


@main.command()
@click.argument("part", type=click.Choice(["vae", "pixelcnn_pp"]))
@preset_options
@click.option("--resolution", type=click.IntRange(min=1), metavar="PIXELS", help="Of y (vae); default: that of x.")
@training_options
def pretrain(params: Params, part: str, resolution: int | None, dry_run: bool, **arguments: Any) -> None:
    """Train the VAE or the PixelCNN alone."""
    resolution = resolution or params.prepare.image_size
    grid.check_resolution(resolution, params.prepare.image_size)
    blocks = blocks_of(params, "model", "compute") | {"pretrain": getattr(params.pretrain, part).model_dump()}
    if only_shown(dry_run, blocks, part=part, resolution=resolution, **arguments):
        return
    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    place = place_of("pretrain", **arguments)
    from agave.steps.pretrain import run

    run(params, part, resolution, seed, data, output, place)


@main.command()
@click.argument("cell")
@preset_options
@click.option("--vae", type=FileArgument, help="model.safetensors of `agave pretrain vae`, for a cell with a VAE.")
@click.option("--pixelcnn-pp", type=FileArgument, help="model.safetensors of `agave pretrain pixelcnn_pp`, for a cell with a PixelCNN.")
@training_options
def joint(params: Params, cell: str, vae: Path | None, pixelcnn_pp: Path | None, dry_run: bool, **arguments: Any) -> None:
    """Train CELL, a model of the grid, from pretrained weights (Eq. 7).

    CELL is kl_weight~W-levels~B-resolution~R, with -auxiliary~none at the end for no auxiliary loss, or a baseline: vae, pixelcnn_pp.
    """
    found = cell_of(params, cell)
    if only_shown(dry_run, blocks_of(params, "model", "compute", "joint"), cell=cell, vae=vae, pixelcnn_pp=pixelcnn_pp, **arguments):
        return
    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    place = place_of("joint", **arguments)
    from agave.steps.joint import run

    run(params, found, seed, data, {"vae": vae, "pixelcnn_pp": pixelcnn_pp}, output, place)


@main.command()
@preset_options
@click.option("--iwae", is_flag=True, help="The importance-sampled bound (K = evaluate.iwae_samples) instead of the one-sample bound.")
@click.option("--shard", metavar="I-of-N", help="With --iwae: only this part of the images, as iwae-I-of-N.npz in the output folder.")
@click.option("--gather", type=click.IntRange(min=1), metavar="N", help="With --iwae: join the N parts in the output folder; needs no GPU.")
@click.option("--memory", type=click.IntRange(min=1), metavar="MIB", help="That networks and activations may take; default: by the device.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", help="bfloat16: a quick look, not for reports.")
@state_options
@model_options
def evaluate(params: Params, cell: str, iwae: bool, shard: str | None, gather: int | None, dry_run: bool, **arguments: Any) -> None:
    """Evaluate CELL on the test images: bounds in bits per dimension, split into their terms."""
    found = cell_of(params, cell)
    if (shard or gather) and (not iwae or (shard and gather)):
        raise UserError("--shard and --gather: accepted with --iwae, one of the two")
    if only_shown(
        dry_run, blocks_of(params, "model", "compute", "evaluate"), cell=cell, iwae=iwae, shard=shard, gather=gather, **arguments
    ):
        return
    from agave.evaluation.importance import parse_shard
    from agave.steps.evaluate import Evaluation, Options, evaluate_bound, evaluate_iwae, gather_iwae

    memory, precision = arguments.pop("memory"), arguments.pop("precision")
    seed, data, model, output = (arguments.pop(name) for name in ("seed", "data", "model", "output"))
    options = Options(parse_shard(shard) if shard else None, None if memory is None else memory * 2**20, precision)
    evaluation = Evaluation(params, found, seed, data, model, output, options)
    if gather:
        gather_iwae(evaluation, gather)
        return
    (evaluate_iwae if iwae else evaluate_bound)(evaluation, place_of("evaluate", **arguments))


@main.command()
@preset_options
@model_options
def sample(params: Params, cell: str, dry_run: bool, model: Path, **arguments: Any) -> None:
    """Draw the reconstructions and samples of CELL that the figures show."""
    found = cell_of(params, cell)
    if only_shown(dry_run, blocks_of(params, "model", "compute", "sample"), cell=cell, model=model, **arguments):
        return
    from agave.steps.sample import run

    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    run(params, found, seed, data, model, output, place_of("sample", **arguments))


@main.command()
@results_options
def tables(params: Params, preset: str, results: Path) -> None:
    """Gather all bounds of the grid and write Table 1 (csv, markdown, LaTeX)."""
    from agave import tables as step

    inputs = {path: results / path for path in step.inputs(params)}
    with recorded("tables", {"grid": params.grid.model_dump()}, inputs, results / "tables/run.json") as outputs:
        step.write_tables(params, preset, results)
        outputs += [results / "tables" / name for name in step.FILES]


@main.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@results_options
def figures(names: tuple[str, ...], params: Params, preset: str, results: Path) -> None:
    """Draw the figures NAME, or all of them, as PDF and PNG, with the data behind each.

    NAME is one of 1a, 1b, 1c, 2, 3a, 3b, 4, 5a, 5b, 6, completions, growth and training.
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
@click.option("--claims", "path", type=FileArgument, default="claims.yaml", help="The claims and their tests.")
def claims(params: Params, preset: str, results: Path, path: Path) -> None:
    """Decide the paper's claims by intervals over test images and seeds; all comparisons go to claims/claims.csv."""
    from agave.claims import write_claims
    from agave.results import CLAIMS, CLAIMS_PAGE, claim_inputs
    from agave.review.verify import claims_page

    inputs = {"claims.yaml": path} | {name: results / name for name in claim_inputs(params)}
    with recorded("claims", blocks_of(params, "model"), inputs, results / "claims/run.json") as outputs:
        decisions = write_claims(params, preset, results, path)
        outputs += [results / CLAIMS, results / CLAIMS_PAGE]
    click.echo("\n".join(claims_page(decisions)))


@main.command()
@results_options
def records(params: Params, preset: str, results: Path) -> None:
    """Sum up what each step cost, and write the SHA-256 of every small result."""
    from agave.steps.records import write_records

    write_records(params, preset, results)


@main.command()
@preset_options
@click.option("--claims", "path", type=FileArgument, default="claims.yaml", help="The claims and their tests.")
@click.pass_context
def verify(context: click.Context, params: Params, path: Path) -> None:
    """Check the results of a preset, redraw them, decide the claims again; exit code 0 only if all is well."""
    from agave.review.verify import verify as run

    preset = preset_name(context)
    if not run(params, preset, Path("results") / preset, path, click.echo):
        context.exit(1)


@main.command()
@results_options
@click.option("--output", type=FolderArgument, required=True, help="Folder to write; an earlier crate there is replaced.")
def crate(params: Params, preset: str, results: Path, output: Path) -> None:
    """Gather workflow, small results and their provenance in a folder for deposit, a Workflow Run RO-Crate."""
    from agave.review.crate import write_crate

    jobs = write_crate(params, preset, results, output)
    click.echo(f"{output}: RO-Crate of {jobs} jobs; check it with: rocrate-validator validate {output}")


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
@click.option("--aside", type=FolderArgument, help="Where to; default: the first new folder work/pruned/PRESET/NUMBER.", show_default=False)
@click.option("--dry-run", is_flag=True, help="Only say what would be moved.")
def prune(params: Params, preset: str, results: Path, aside: Path | None, dry_run: bool) -> None:
    """Set results of models that the grid does not name any more aside: moved, never deleted."""
    from agave.steps import prune

    if results.resolve().name != preset:
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
    from agave.planning.summary import report, summarize

    click.echo(report(summarize(params), preset_name(context)), nl=False)


@main.command()
@preset_options
@click.option("--tflops", type=float, metavar="T", help="Sustained TFLOP/s of one device in training; default: a figure for the preset's.")
@click.option("--calibrate", is_flag=True, help="Measure it here, by real training steps of the preset's networks: about a minute.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="With --calibrate: processor cores that make one device.")
@click.option("--gpus", "--devices", "devices", type=click.IntRange(min=1), default=1, help="Devices side by side, for the wall time.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the plan to this file as well.")
@click.pass_context
def plan(
    context: click.Context, params: Params, tflops: float | None, calibrate: bool, threads: int, devices: int, json_file: Path | None
) -> None:
    """Print what a preset will cost before it runs: jobs, steps, arithmetic, memory and hours of each rule and in all."""
    from agave.planning import plan as planning

    if calibrate and tflops is not None:
        raise click.UsageError("--tflops and --calibrate exclude each other: one states the throughput, the other measures it.")
    throughput = planning.stated(params, tflops)
    if calibrate:
        from agave.planning.throughput import calibrate as measure

        click.echo("measuring this machine, about a minute ...", err=True)
        throughput = measure(params, threads)
    preset = preset_name(context)
    made = planning.make(params, throughput, devices)
    if json_file is not None:
        with atomic_write(json_file) as temporary:
            temporary.write_text(json.dumps({"preset": preset} | made, indent=2) + "\n")
    click.echo(planning.report(made, params, preset), nl=False)


@main.command("import-weights")
@click.argument("weights", type=FileArgument)
@preset_options
@click.option(
    "--output", type=FolderArgument, required=True, help="Folder for model.safetensors, as `agave pretrain pixelcnn_pp` writes it."
)
def import_weights(params: Params, weights: Path, output: Path) -> None:
    """Use PixelCNN++ weights trained elsewhere in place of `agave pretrain pixelcnn_pp`.

    WEIGHTS is an .npz or .safetensors file of effective weights and biases by canonical name (docs/weights.md), for the
    sizes that the preset gives.
    """
    from agave.steps.import_weights import import_pixelcnn_pp

    import_pixelcnn_pp(params, weights, output)


@main.command("export-weights")
@click.argument("model", type=FileArgument)
@preset_options
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The .npz or .safetensors file to write.")
def export_weights(params: Params, model: Path, output: Path) -> None:
    """Write the PixelCNN++ of MODEL, a pretrained one, as effective weights and biases by canonical name."""
    from agave.steps.import_weights import export_pixelcnn_pp

    export_pixelcnn_pp(params, model, output)


@main.command()
@click.argument("step")
def digest(step: str) -> None:
    """Print the digest of the science source that STEP uses, and the files that it covers."""
    from agave.provenance import code_digest

    click.echo(code_digest.digest(step))
    for file in code_digest.files(step):
        click.echo(f"  {file}")


if __name__ == "__main__":
    sys.exit(main())
