# Parameters, wildcards and the functions that the rules share.
import functools
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.utils import validate

from agave import config as parameters, figures, grid, results, tables
from agave.errors import UserError
from agave.planning import plan
from agave.provenance import code_digest
from agave.steps import prune as pruning, records, report as pages, trainings

SOURCES = {step: code_digest.digest(step) for step in code_digest.ENTRY_MODULES}


def checked_parameters():
    """The parameters of the chosen preset and the throughput that is assumed; the other presets and --config are checked too.

    Raises:
        SystemExit: a parameter is wrong; the one line printed names it and what is accepted.
    """
    try:
        own = {key: value for key, value in config.items() if key not in ("preset", "images", "tflops")}
        document = parameters.read("params.yaml")
        changed = [key for key in own if own[key] != document.get(key)]
        if changed:
            raise parameters.ConfigError(
                f"--config {changed[0]}=...: not accepted; accepted: preset=NAME, images=PATH and tflops=T. Everything else is set in params.yaml"
            )
        chosen = parameters.resolve(config)
        path = config.get("images") or (chosen.prepare.path if chosen.prepare.source == "images" else None)
        if path and not os.path.exists(path):
            raise parameters.ConfigError(
                f"images {path}: there is no such file or folder; accepted: an .npz or .npy file, or a folder of images"
            )
        for preset in own:
            parameters.resolve(config, preset)
        tflops = config.get("tflops")
        if not isinstance(tflops, (int, float, type(None))):
            raise parameters.ConfigError(f"--config tflops={tflops}; accepted: a positive number, sustained TFLOP/s of one device")
        return chosen, plan.stated(chosen, tflops)
    except UserError as error:
        sys.exit(f"error: {error}")


PARAMS, THROUGHPUT = checked_parameters()
PRESET = str(config["preset"])
SEEDS = PARAMS.grid.seeds
RESULTS = f"results/{PRESET}"
validate(config, "../schemas/params.schema.json")

# The commands of the environment that Snakemake runs in, also if that environment is not activated.
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")


wildcard_constraints:
    preset=re.escape(PRESET),
    cell=grid.NAME_PATTERN,
    resolution=r"\d+",
    seed=r"\d+",


def block(*names, without=()):
    """The named blocks of the parameters as plain values, for `params:`; `without` leaves keys out that change no result."""
    value = PARAMS
    for name in names:
        value = getattr(value, name)
    return {key: item for key, item in value.model_dump().items() if key not in without}


def compute():
    """What of the block `compute` changes results beyond rounding."""
    return block("compute", without=["images_per_pass", "checkpointing", "compile"])


def networks(cell):
    """The part of the block `model` that a cell depends on."""
    model = block("model")
    if not cell.has_pixelcnn_pp:
        return {key: model[key] for key in ("vae", "likelihood")}
    return model if cell.has_vae else {"pixelcnn_pp": model["pixelcnn_pp"]}


def cell_of(wildcards):
    """The cell that a job computes."""
    return grid.parse(wildcards.cell, PARAMS.prepare.image_size, PARAMS.pretrain.vae_kl_weight)


@functools.cache
def planned(step, kind, resolution):
    """The estimated cost of a job; the cells of a grid differ in it by their networks alone."""
    return plan.job(PARAMS, step, grid.Cell(kind, resolution=resolution))


def planned_job(step, wildcards):
    """The estimated cost of the job that has these wildcards."""
    if step == "pretrain_vae":
        return planned(step, "vae", int(wildcards.resolution))
    if step == "pretrain_pixelcnn_pp":
        return planned(step, "pixelcnn_pp", PARAMS.prepare.image_size)
    cell = cell_of(wildcards)
    return planned(step, cell.kind, cell.resolution)


def memory(step):
    """For `mem_mb`: the estimated memory of a job, more at each attempt."""
    return lambda wildcards, attempt: plan.mem_mb(planned_job(step, wildcards), attempt)


def minutes(step):
    """For `runtime`: twice the estimated time of a job, on a device that sustains what --config tflops=T says."""
    return lambda wildcards, attempt: plan.minutes(planned_job(step, wildcards), THROUGHPUT, attempt)


def cell_files(step, name, chosen=None, seeds=SEEDS):
    """The path of a file for each of the cells (default: all) and seeds."""
    chosen = grid.all_cells(PARAMS) if chosen is None else chosen
    return [f"{RESULTS}/{step}/{cell.name}/seed~{seed}/{name}" for cell in chosen for seed in seeds]


def image_file(wildcards):
    """The user's image file as an input, so that a change of it is noticed; a missing one is reported by `agave prepare`."""
    path = config.get("images") or (PARAMS.prepare.path if PARAMS.prepare.source == "images" else None)
    return [path] if path and os.path.isfile(path) else []


def pretrained_files(wildcards):
    """The pretrained networks that a joint training starts from, as {part of the model: path}."""
    cell, folder, files = cell_of(wildcards), f"{RESULTS}/pretrain", {}
    if cell.has_vae:
        files["vae"] = f"{folder}/vae-resolution~{cell.resolution}/seed~{wildcards.seed}/model.safetensors"
    if cell.has_pixelcnn_pp:
        files["pixelcnn_pp"] = f"{folder}/pixelcnn_pp/seed~{wildcards.seed}/model.safetensors"
    return files


def pretrained_options(wildcards):
    """`pretrained_files` as options on the command line."""
    return " ".join(f"--{part.replace('_', '-')} {path}" for part, path in pretrained_files(wildcards).items())
