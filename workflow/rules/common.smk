# Parameters, wildcards and the functions that the rules share.
import functools
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.utils import validate

from agave import cli_shared_process, config as parameters, figures, grid, presets
from agave.data import listing
from agave.errors import UserError
from agave.models import options_of
from agave.planning import plan
from agave.provenance import code_digest
from agave.steps import prune as pruning, records, report as pages, trainings


def checked_parameters():
    """Return the parameters of the chosen preset, the user's image file, and the assumed throughput.

    Params.yaml is read and checked as `agave config` does it, before Snakemake reads the file; --config is checked as well.

    Raises:
        SystemExit: a parameter is wrong; each line printed names one and what is accepted.
    """
    try:
        document = parameters.read("params.yaml")
        for key in config:
            if key not in presets.OPTIONS and config[key] != document.get(key):
                raise presets.ConfigError(
                    f"--config {key}=...: not accepted; accepted: preset=NAME, images=PATH and tflops=T. Everything else is set in params.yaml"
                )
        chosen = parameters.resolve(document, None if config.get("preset") is None else str(config["preset"]))
        images, tflops = config.get("images"), config.get("tflops")
        if images is not None and not isinstance(images, str):
            raise presets.ConfigError(f"--config images={images}: not text; accepted: an .npz or .npy file, or a folder of images")
        path = images or (chosen.prepare.path if chosen.prepare.source == "images" else None)
        if chosen.prepare.source == "images" and not path:
            raise presets.ConfigError(
                "prepare.path is not set; accepted for the source images: an .npz or .npy file or a folder of image files"
            )
        if path and not os.path.exists(path):
            raise presets.ConfigError(
                f"images {path}: there is no such file or folder; accepted: an .npz or .npy file, or a folder of images"
            )
        if isinstance(tflops, bool) or not isinstance(tflops, (int, float, type(None))):
            raise presets.ConfigError(f"--config tflops={tflops}; accepted: a positive number, sustained TFLOP/s of one device")
        if os.pathsep in COMMANDS:
            raise presets.ConfigError(
                f"{COMMANDS}: a path with '{os.pathsep}' cannot be part of PATH; accepted: a checkout in a folder without it"
            )
        return chosen, path, plan.stated(chosen, tflops)
    except UserError as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))


def share_process():
    """Start the process that short local jobs on a CPU share, so that not each of them loads torch; it ends with Snakemake."""
    if workflow.is_main_process and workflow.local_exec and PARAMS.compute.device == "cpu" and sys.platform == "linux":
        global SHARED_PROCESS
        SHARED_PROCESS = cli_shared_process.start()


COMMANDS = str(Path(sys.executable).parent)  # of the environment that Snakemake runs in
PARAMS, IMAGES, THROUGHPUT = checked_parameters()


configfile: "params.yaml"


PRESET = str(config["preset"])
SEEDS = PARAMS.grid.seeds
RESULTS = f"results/{PRESET}"
if not os.access(".snakemake" if os.path.isdir(".snakemake") else ".", os.W_OK):
    sys.exit(f"error: {os.getcwd()}: Snakemake cannot write its records there; accepted: a copy of the checkout that is yours")
listing.note_for_dvc("workflow/own_images.yaml", parameters.load("params.yaml").prepare)
validate(config, "../schemas/params.schema.json", set_default=False)

# The commands of the environment are found even if it is not activated. Snakemake fills in what is in braces, so braces are doubled.
shell.prefix("export PATH={}:$PATH; ".format(shlex.quote(COMMANDS).replace("{", "{{").replace("}", "}}")))


wildcard_constraints:
    preset=re.escape(PRESET),
    cell=grid.NAME_PATTERN,
    resolution=r"\d+",
    seed=r"\d+",


def block(*names, without=()):
    """Return the named blocks of the parameters as plain values, for `params:`; `without` leaves out keys that change no result."""
    value = PARAMS
    for name in names:
        value = getattr(value, name)
    return {key: item for key, item in value.model_dump().items() if key not in without}


def compute():
    """Return the keys of the block `compute` that change results beyond rounding."""
    return block("compute", without=["images_per_pass", "checkpointing", "compile"])


@functools.cache
def source(step, system=None):
    """Return the digest of the code that the results of a step depend on, which for a model is without that of other systems."""
    return code_digest.digest(step, system)


def networks(cell):
    """Return the parameters that the model of a cell is made from."""
    return options_of(cell.system, PARAMS)


def cell_of(wildcards):
    """Return the cell that a job computes."""
    return grid.parse_cell(wildcards.cell, PARAMS.prepare.image_size, PARAMS.pretrain.vae_kl_weight)


@functools.cache
def planned(step, kind, resolution):
    """Return the estimated cost of a job, which depends on the networks of the cell alone."""
    return plan.job(PARAMS, step, grid.Cell(kind, resolution=resolution))


def planned_job(step, wildcards):
    """Return the estimated cost of the job that has these wildcards."""
    if step == "pretrain_vae":
        return planned(step, "vae", int(wildcards.resolution))
    if step == "pretrain_pixelcnn_pp":
        return planned(step, "pixelcnn_pp", PARAMS.prepare.image_size)
    cell = cell_of(wildcards)
    return planned(step, cell.kind, cell.resolution)


def memory(step):
    """Return the value of `mem_mb`: the estimated memory of a job, more at each attempt."""
    return lambda wildcards, attempt: plan.mem_mb(planned_job(step, wildcards), attempt)


def minutes(step):
    """Return the value of `runtime`: twice the estimated time of a job, on a device with the throughput of --config tflops=T."""
    return lambda wildcards, attempt: plan.minutes(planned_job(step, wildcards), THROUGHPUT, attempt)


def cell_files(step, name, chosen=None):
    """Return the path of a file for each of the cells (default: all) and seeds."""
    chosen = grid.all_cells(PARAMS) if chosen is None else chosen
    return [f"{RESULTS}/{step}/{cell.name}/seed~{seed}/{name}" for cell in chosen for seed in SEEDS]


def own_images(wildcards):
    """Return the user's array file or folder of images as an input, so that a change is noticed. The parameter check ensures that it exists."""
    return [IMAGES] if IMAGES else []


def images_option(wildcards):
    """Return the images of --config images=PATH as an option of `agave prepare`."""
    return f"--images {shlex.quote(config['images'])}" if config.get("images") else ""


def pretrained_files(wildcards):
    """Return the pretrained networks that a joint training starts from, as {part of the model: path}."""
    cell, folder, files = cell_of(wildcards), f"{RESULTS}/pretrain", {}
    if cell.has_vae:
        files["vae"] = f"{folder}/vae-resolution~{cell.resolution}/seed~{wildcards.seed}/model.safetensors"
    if cell.has_pixelcnn_pp:
        files["pixelcnn_pp"] = f"{folder}/pixelcnn_pp/seed~{wildcards.seed}/model.safetensors"
    return files


def pretrained_options(wildcards):
    """Return `pretrained_files` as options on the command line."""
    return " ".join(f"--{part.replace('_', '-')} {path}" for part, path in pretrained_files(wildcards).items())
