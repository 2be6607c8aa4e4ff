"""The command `agave`: one sub-command a step. Nothing heavy is imported before a step runs."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

from agave import cells, config
from agave.config import Params
from agave.errors import UserError
from agave.files import atomic_write

FolderArgument = click.Path(file_okay=False, path_type=Path)
FileArgument = click.Path(exists=True, dir_okay=False, path_type=Path)


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


def _preset_options(command: Callable[..., None]) -> Callable[..., None]:
    @click.option("--params", "params_file", type=FileArgument, default="params.yaml", help="The parameter file.")
    @click.option("--preset", default=None, help="Which preset of it; default: the one that the file names.")
    @functools.wraps(command)
    def wrapped(params_file: Path, preset: str | None, **arguments: Any) -> None:
        command(params=config.load(params_file, preset), **arguments)

    return wrapped


def _all_of(options: list[Callable[..., Any]], command: Callable[..., None]) -> Callable[..., None]:
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def _state_options(command: Callable[..., None]) -> Callable[..., None]:
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


def _training_options(command: Callable[..., None]) -> Callable[..., None]:
    options: list[Callable[..., Any]] = [
        click.option("--seed", type=click.IntRange(min=0), default=0, help="Of weights, data order and noise."),
        click.option("--data", type=FolderArgument, required=True, help="Folder made by `agave prepare`."),
        click.option("--output", type=FolderArgument, required=True, help="Folder for the trained weights."),
        _state_options,
        click.option(
            "--devices",
            type=click.IntRange(min=0),
            default=1,
            help="GPUs (processes on a CPU) that share a batch; 0: $CUDA_VISIBLE_DEVICES.",
        ),
        click.option(
            "--tensorboard", type=FolderArgument, envvar="AGAVE_TENSORBOARD", help="Folder for TensorBoard; also $AGAVE_TENSORBOARD."
        ),
        *_place_options,
    ]
    return _all_of(options, command)


_place_options = [
    click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Overrides the preset's compute.device."),
    click.option("--threads", type=click.IntRange(min=1), help="Processor threads; default: all cores."),
    click.option("--dry-run", is_flag=True, help="Print the resolved options and do nothing."),
]


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    options: list[Callable[..., Any]] = [
        click.argument("cell"),
        click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the training."),
        click.option("--data", type=FolderArgument, required=True, help="Folder made by `agave prepare`."),
        click.option("--model", type=FileArgument, required=True, help="model.safetensors of the cell."),
        click.option("--output", type=FolderArgument, required=True, help="Folder for the results."),
        *_place_options,
    ]
    return _all_of(options, command)


def _cell(params: Params, name: str) -> cells.Cell:
    return cells.parse(name, params.prepare.image_size, params.pretrain.vae_kl_weight)


def _show(dry_run: bool, blocks: dict[str, Any], **arguments: Any) -> bool:
    """With --dry-run: print what would be used, as YAML."""
    if dry_run:
        shown = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items() if v is not None}
        click.echo(yaml.safe_dump(shown | blocks, sort_keys=False), nl=False)
    return dry_run


def _preset_name(context: click.Context) -> str:
    """The preset that a sub-command runs: the one given, or the one that the parameter file names."""
    return str(context.params["preset"] or config.read(context.params["params_file"])["preset"])


@contextmanager
def _recorded(step: str, options: dict[str, Any], inputs: dict[str, Path], record: Path) -> Iterator[list[Path]]:
    """Write the run record of a step, unless it fails; the step adds the files that it wrote to the list."""
    from agave.provenance import Record

    there = {name: path for name, path in inputs.items() if path.exists()}  # the step itself says what is missing
    started, outputs = Record(step, options, there), list[Path]()
    yield outputs
    started.write(record, outputs)


def _blocks(params: Params, *names: str) -> dict[str, Any]:
    return {name: getattr(params, name).model_dump() for name in names}


def _launch(devices: int) -> None:
    """Start this command again as several processes by torchrun, one a device, unless it is one of them already.

    The command is replaced, so that signals reach torchrun; it hands them on and leaves the processes ten minutes to save.
    """
    devices = devices or len(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(","))  # for a site that gives GPUs by another name
    if devices > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={devices}", "--shutdown-timeout=600"]
        os.execv(sys.executable, [sys.executable, "-m", *torchrun, "-m", "agave.cli", *sys.argv[1:]])


def _place(
    step: str,
    device: str | None,
    threads: int | None,
    state_dir: Path = Path("work"),
    devices: int = 1,
    tensorboard: Path | None = None,
    **limits: Any,
) -> Any:
    _launch(devices)
    from agave.runs import Place
    from agave.source import digest
    from agave.training import Stop

    return Place(state=state_dir, device=device, threads=threads, stop=Stop(**limits), source=digest(step), tensorboard=tensorboard)


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
@_preset_options
@click.option("--output", type=FolderArgument, required=True, help="Folder for train.npy, test.npy and manifest.json.")
@click.option("--images", type=click.Path(path_type=Path), help="Array file or folder of images, instead of prepare.source.")
@click.option("--dry-run", is_flag=True, help="Print the resolved options and do nothing.")
def prepare(params: Params, output: Path, images: Path | None, dry_run: bool) -> None:
    """Get the images, verify, split and store them as uint8 arrays."""
    if _show(dry_run, _blocks(params, "prepare"), output=output, images=images):
        return
    from agave.data import prepare as run

    path = images or (Path(params.prepare.path) if params.prepare.path else None)
    given = {"images": path} if path is not None and path.is_file() else {}  # else the files are named in the manifest
    with _recorded("prepare", _blocks(params, "prepare"), given, output / "run.json") as outputs:
        manifest = run(params.prepare, output, images)
        outputs += [output / name for name in ("train.npy", "test.npy", "manifest.json")]
    for split in ("train", "test"):
        click.echo(f"{manifest['name'][split]}: {manifest[split]['images']} images of {manifest['image_size']} pixels squared")


@main.command()
@click.argument("part", type=click.Choice(["vae", "pixelcnn"]))
@_preset_options
@click.option("--resolution", type=click.IntRange(min=1), metavar="PIXELS", help="Of y (vae); default: that of x.")
@_training_options
def pretrain(params: Params, part: str, resolution: int | None, dry_run: bool, **arguments: Any) -> None:
    """Train the VAE or the PixelCNN alone."""
    resolution = resolution or params.prepare.image_size
    cells.check_resolution(resolution, params.prepare.image_size)
    blocks = _blocks(params, "model", "compute") | {"pretrain": getattr(params.pretrain, part).model_dump()}
    if _show(dry_run, blocks, part=part, resolution=resolution, **arguments):
        return
    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    place = _place("pretrain", **arguments)
    from agave.runs import pretrain as run

    run(params, part, resolution, seed, data, output, place)


@main.command()
@click.argument("cell")
@_preset_options
@click.option("--vae", type=FileArgument, help="model.safetensors of `agave pretrain vae`, for a cell with a VAE.")
@click.option("--pixelcnn", type=FileArgument, help="model.safetensors of `agave pretrain pixelcnn`, for a cell with a PixelCNN.")
@_training_options
def joint(params: Params, cell: str, vae: Path | None, pixelcnn: Path | None, dry_run: bool, **arguments: Any) -> None:
    """Train CELL, a model of the grid, from pretrained weights (Eq. 7).

    CELL is kl_weight~W-levels~B-resolution~R, with -auxiliary~none at the end for no auxiliary loss, or a baseline: vae, pixelcnn.
    """
    found = _cell(params, cell)
    if _show(dry_run, _blocks(params, "model", "compute", "joint"), cell=cell, vae=vae, pixelcnn=pixelcnn, **arguments):
        return
    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    place = _place("joint", **arguments)
    from agave.runs import joint as run

    run(params, found, seed, data, vae, pixelcnn, output, place)


@main.command()
@_preset_options
@click.option("--iwae", is_flag=True, help="The importance-sampled bound (K = evaluate.iwae_samples) instead of the one-sample bound.")
@click.option("--shard", metavar="I-of-N", help="With --iwae: only this part of the images, as iwae-I-of-N.npz in the output folder.")
@click.option("--gather", type=click.IntRange(min=1), metavar="N", help="With --iwae: join the N parts in the output folder; needs no GPU.")
@click.option("--memory", type=click.IntRange(min=1), metavar="MIB", help="That networks and activations may take; default: by the device.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", help="bfloat16: a quick look, not for reports.")
@_state_options
@_model_options
def evaluate(params: Params, cell: str, iwae: bool, shard: str | None, gather: int | None, dry_run: bool, **arguments: Any) -> None:
    """Evaluate CELL on the test images: bounds in bits per dimension, split into their terms."""
    found = _cell(params, cell)
    if (shard or gather) and (not iwae or (shard and gather)):
        raise UserError("--shard and --gather: accepted with --iwae, one of the two")
    if _show(dry_run, _blocks(params, "model", "compute", "evaluate"), cell=cell, iwae=iwae, shard=shard, gather=gather, **arguments):
        return
    from agave.evaluation import Options, evaluate_iwae, gather_iwae
    from agave.evaluation import evaluate as run
    from agave.importance import parse_shard

    memory, precision = arguments.pop("memory"), arguments.pop("precision")
    seed, data, model, output = (arguments.pop(name) for name in ("seed", "data", "model", "output"))
    where = params, found, seed, data, model, output
    if gather:
        gather_iwae(*where, gather, precision)
        return
    options = Options(parse_shard(shard) if shard else None, None if memory is None else memory * 2**20, precision)
    (evaluate_iwae if iwae else run)(*where, _place("evaluate", **arguments), options)


@main.command()
@_preset_options
@_model_options
def sample(params: Params, cell: str, dry_run: bool, model: Path, **arguments: Any) -> None:
    """Draw the reconstructions and samples of CELL that the figures show."""
    found = _cell(params, cell)
    if _show(dry_run, _blocks(params, "model", "compute", "sample"), cell=cell, model=model, **arguments):
        return
    from agave.sampling import draw as run

    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    run(params, found, seed, data, model, output, _place("sample", **arguments))


@main.command()
@_preset_options
@click.option("--results", type=FolderArgument, required=True, help="Folder of the preset, results/PRESET.")
@click.pass_context
def tables(context: click.Context, params: Params, results: Path) -> None:
    """Gather all bounds of the grid and write Table 1 (csv, markdown, LaTeX)."""
    from agave import tables as step

    inputs = {path: results / path for path in step.inputs(params)}
    with _recorded("tables", {"grid": params.grid.model_dump()}, inputs, results / "tables/run.json") as outputs:
        step.write_tables(params, _preset_name(context), results)
        outputs += [results / "tables" / name for name in step.FILES]


@main.command()
@click.argument("name")
@_preset_options
@click.option("--results", type=FolderArgument, required=True, help="Folder of the preset, results/PRESET.")
@click.pass_context
def figure(context: click.Context, name: str, params: Params, results: Path) -> None:
    """Draw figure NAME (1a 1b 1c 2 3a 3b 4 5a 5b 6 completions growth training) as PDF and PNG, with the data behind it."""
    from agave import figures

    inputs = {path: results / path for path in figures.inputs(name, params)}
    with _recorded("figures", _blocks(params, "figures"), inputs, results / f"figures/figure{name}.json") as outputs:
        figures.draw(name, params, _preset_name(context), results)
        outputs += [results / path for path in figures.outputs(name)]


@main.command()
@_preset_options
@click.option("--results", type=FolderArgument, required=True, help="Folder of the preset, results/PRESET.")
@click.pass_context
def trainings(context: click.Context, params: Params, results: Path) -> None:
    """Gather the histories and run records of all trainings, which lie with the weights, in two small files."""
    from agave.trainings import gather

    gather(params, _preset_name(context), results)


@main.command()
@_preset_options
@click.option("--results", type=FolderArgument, required=True, help="Folder of the preset, results/PRESET.")
@click.option("--claims", "path", type=FileArgument, default="claims.yaml", help="The claims and their tests.")
@click.pass_context
def claims(context: click.Context, params: Params, results: Path, path: Path) -> None:
    """Decide the paper's claims by intervals over test images and seeds; all comparisons go to claims/claims.csv."""
    from agave.claims import counts, decisive, shown, write_claims
    from agave.results import CLAIMS, CLAIMS_PAGE, claim_inputs

    inputs = {"claims.yaml": path} | {name: results / name for name in claim_inputs(params)}
    with _recorded("claims", _blocks(params, "model"), inputs, results / "claims/run.json") as outputs:
        decisions = write_claims(params, _preset_name(context), results, path)
        outputs += [results / CLAIMS, results / CLAIMS_PAGE]
    for decision in decisions:
        one = decisive(decision)
        click.echo(f"{decision.claim.id:<4} {decision.verdict:<26} {decision.claim.claim}")
        click.echo(f"{'':<31} {shown(one) if one else decision.basis}")
    click.echo(", ".join(f"{number} {verdict}" for verdict, number in counts(decisions).items()))


@main.command()
@_preset_options
@click.option("--results", type=FolderArgument, required=True, help="Folder of the preset, results/PRESET.")
@click.pass_context
def records(context: click.Context, params: Params, results: Path) -> None:
    """Sum up what each step cost, and write the SHA-256 of every small result."""
    from agave.records import write_records

    write_records(params, _preset_name(context), results)


@main.command()
@_preset_options
@click.option("--claims", "path", type=FileArgument, default="claims.yaml", help="The claims and their tests.")
@click.pass_context
def verify(context: click.Context, params: Params, path: Path) -> None:
    """Check the results of a preset, redraw them, decide the claims again; exit code 0 only if all is well."""
    from agave.verify import verify as run

    preset = _preset_name(context)
    if not run(params, preset, Path("results") / preset, path, click.echo):
        context.exit(1)


@main.command()
@_preset_options
@click.option("--results", type=FolderArgument, required=True, help="Folder of the preset, results/PRESET.")
@click.option("--output", type=FolderArgument, required=True, help="Folder to write; an earlier crate there is replaced.")
@click.pass_context
def crate(context: click.Context, params: Params, results: Path, output: Path) -> None:
    """Gather workflow, small results and their provenance in a folder for deposit, a Workflow Run RO-Crate."""
    from agave.crate import write_crate

    jobs = write_crate(params, _preset_name(context), results, output)
    click.echo(f"{output}: RO-Crate of {jobs} jobs; check it with: rocrate-validator validate {output}")


@main.command()
@_preset_options
@click.option("--results", type=FolderArgument, required=True, help="Folder of the preset, results/PRESET.")
@click.option("--output", type=FolderArgument, required=True, help="Folder for the pages.")
@click.pass_context
def report(context: click.Context, params: Params, results: Path, output: Path) -> None:
    """Write the pages of the report that show text: Table 1, claims, compute, provenance. `make report` puts all into one file."""
    from agave.report import NAMES, write_pages

    write_pages(params, _preset_name(context), results, output)
    for name in NAMES:
        click.echo(output / f"{name}.html")


@main.command()
@_preset_options
@click.option("--results", type=FolderArgument, required=True, help="Folder of the preset, results/PRESET.")
@click.option("--aside", type=FolderArgument, help="Where to; default: the first new folder work/pruned/PRESET/NUMBER.", show_default=False)
@click.option("--dry-run", is_flag=True, help="Only say what would be moved.")
@click.pass_context
def prune(context: click.Context, params: Params, results: Path, aside: Path | None, dry_run: bool) -> None:
    """Set results of models that the grid does not name any more aside: moved, never deleted."""
    from agave import pruning

    preset = _preset_name(context)
    if results.resolve().name != preset:
        raise UserError(f"--results {results}: not the folder of the preset {preset}; accepted: a folder of that name, as results/{preset}")
    aside = aside or pruning.free_folder(preset)
    paths = pruning.stale(params, results)
    for path in paths:
        click.echo(f"{results / path} -> {aside / path}")
    if not dry_run:
        pruning.set_aside(paths, results, aside)
        click.echo(f"{len(paths)} results set aside; one that is moved back counts as finished when the grid names it again")


@main.command()
@_preset_options
@click.pass_context
def summary(context: click.Context, params: Params) -> None:
    """Print parameters, multiply-adds, memory and tensor shapes of the networks, without allocating them."""
    from agave.summary import report, summarize

    click.echo(report(summarize(params), _preset_name(context)), nl=False)


@main.command()
@_preset_options
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
    from agave import plan as planning

    if calibrate and tflops is not None:
        raise click.UsageError("--tflops and --calibrate exclude each other: one states the throughput, the other measures it.")
    throughput = planning.stated(params, tflops)
    if calibrate:
        from agave.calibration import calibrate as measure

        click.echo("measuring this machine, about a minute ...", err=True)
        throughput = measure(params, threads)
    preset = _preset_name(context)
    made = planning.make(params, throughput, devices)
    if json_file is not None:
        with atomic_write(json_file) as temporary:
            temporary.write_text(json.dumps({"preset": preset} | made, indent=2) + "\n")
    click.echo(planning.report(made, params, preset), nl=False)


@main.command("import-weights")
@click.argument("weights", type=FileArgument)
@_preset_options
@click.option("--output", type=FolderArgument, required=True, help="Folder for model.safetensors, as `agave pretrain pixelcnn` writes it.")
def import_weights(params: Params, weights: Path, output: Path) -> None:
    """Use PixelCNN++ weights trained elsewhere in place of `agave pretrain pixelcnn`.

    WEIGHTS is an .npz or .safetensors file of effective weights and biases by canonical name (docs/weights.md), for the
    sizes that the preset gives.
    """
    from agave.weights import import_pixelcnn

    import_pixelcnn(params, weights, output)


@main.command("export-weights")
@click.argument("model", type=FileArgument)
@_preset_options
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The .npz or .safetensors file to write.")
def export_weights(params: Params, model: Path, output: Path) -> None:
    """Write the PixelCNN++ of MODEL, a pretrained one, as effective weights and biases by canonical name."""
    from agave.weights import export_pixelcnn

    export_pixelcnn(params, model, output)


@main.command()
@click.argument("step")
def digest(step: str) -> None:
    """Print the digest of the science source that STEP uses, and the files that it covers."""
    from agave import source

    click.echo(source.digest(step))
    for file in source.files(step):
        click.echo(f"  {file}")


if __name__ == "__main__":
    sys.exit(main())
