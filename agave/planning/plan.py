"""Estimate the cost of a preset before it runs: arithmetic, memory and hours of every job. Needs no torch.

Arithmetic is counted from the sizes of the networks (network_costs.py); memory and hours are estimates. `agave plan` prints them
for a user who sizes partitions and time limits, and the workflow asks for the memory and time of its jobs with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agave import figures, grid
from agave.config import Params, Training
from agave.errors import UserError
from agave.grid import Cell
from agave.planning import network_costs
from agave.planning.pixelcnn_pp_costs import horizontal_steps
from agave.planning.table1_costs import COSTS

MIB, GIB = 2**20, 2**30

# Device throughput, FLOP/s, for networks of the size of the preset `paper`: published dense peaks of an NVIDIA A100 (bfloat16
# 312e12, float32 19.5e12) times the shares that we assume convolutions of 160 channels at 32x32 reach. Not measured by us.
GPU_BFLOAT16 = 312e12 * 0.10
GPU_FLOAT32 = 19.5e12 * 0.40
# One core of a server CPU with AVX-512, networks of the preset `demo`: `agave plan --preset demo --calibrate` gave 0.03 to 0.06.
CORE_FLOAT32 = 0.035e12

STARTUP_SECONDS = 6.0  # start of a job: Snakemake, Python, torch; on a cluster the queue comes on top
LAUNCH_SECONDS = 10e-6  # time of a small operation that waits for the one before it, on a CPU or a GPU
LAUNCHES_PER_BLOCK = 12  # small operations of the cached sampler, in a gated block and in drawing a pixel

# Resident memory of a process, bytes: Python, torch and its lazily loaded parts (measured), and on a GPU its libraries (estimate).
PROCESS = 730 * MIB
GPU_PROCESS = 4000 * MIB
SNAKEMAKE = 260 * MIB  # a cluster job holds a Snakemake process besides
IMAGE_COPIES = 4  # copies of the data set, while it is verified and moved

MARGIN = 2  # factor by which the estimated hours may be wrong
LONGEST_TRAINING = 2880  # minutes: more than most sites allow a job

TRAININGS = ("pretrain_vae", "pretrain_pixelcnn_pp", "joint_cell")
SNAKEMAKE_MIB = 400  # the process that starts a job on its node; 260 MB seen

EVALUATIONS = ("evaluate_bound", "evaluate_iwae", "sample_cell", "codec_cell")

DOUBLE = 2  # time of an operation of the codec, which computes in float64, in operations in float32
SOLVING = 28  # passes of the decoder that it takes to solve for the latent variables, when compressing and again when decompressing


@dataclass(frozen=True)
class PlannedJob:
    """One job of a rule.

    Attributes:
        rule: name of its rule in the workflow.
        kind: kind of the model that it computes.
        steps: number of optimizer steps, of forward passes, or for the sampler of pixels, one after another.
        operations: arithmetic of the convolutions, FLOP.
        launches: number of small operations that wait for each other, whatever the throughput.
        memory: memory on the device, bytes: weights, what a step keeps, images.
        host_memory: memory of the job on its machine, bytes; includes that of the device if this is the CPU.
    """

    rule: str
    kind: str
    steps: int
    operations: int
    launches: int
    memory: int
    host_memory: int


@dataclass(frozen=True)
class Throughput:
    """The throughput that a device sustains.

    Attributes:
        training: FLOP/s of training steps, by kind of model.
        evaluation: FLOP/s of forward passes in float32, by kind of model.
        startup: seconds before a job begins to compute.
        device: device that the figures are for.
        origin: source of the figures.
    """

    training: Mapping[str, float]
    evaluation: Mapping[str, float]
    startup: float
    device: str
    origin: str


def stated(params: Params, tflops: float | None = None) -> Throughput:
    """Return an assumed throughput, which is not measured on this machine.

    Args:
        params: parameters of the preset; device and precision choose the default.
        tflops: sustained TFLOP/s of training steps; None: a default for the preset's device.

    Raises:
        UserError: the throughput is not positive.
    """
    if tflops is not None and not (math.isfinite(tflops) and tflops > 0):
        raise UserError(f"tflops {tflops:g}; accepted: a positive number, sustained TFLOP/s of one device")
    on_gpu, half = params.compute.device == "cuda", params.compute.precision == "bfloat16"
    evaluation_share = GPU_FLOAT32 / GPU_BFLOAT16 if half else 1.0  # bounds and samples are float32
    if tflops is not None:
        training, device, origin = tflops * 1e12, "one device", "as given"
    elif on_gpu:
        training = GPU_BFLOAT16 if half else GPU_FLOAT32
        device = "one NVIDIA A100 GPU"
        origin = "published peak times an assumed share (bfloat16 312 x 10%, float32 19.5 x 40%)"
    else:
        training, device = CORE_FLOAT32, "one CPU core"
        origin = "the networks of the preset demo on one core with AVX-512"
    kinds = ("agave", "vae", "pixelcnn_pp")
    rates = dict.fromkeys(kinds, training), dict.fromkeys(kinds, training * evaluation_share)
    return Throughput(*rates, STARTUP_SECONDS, device, f"stated, not measured: {origin}")


def image_numbers(params: Params) -> tuple[int, int]:
    """Return the numbers of training and test images; where the user's own images decide, those of CIFAR-10."""
    prepare = params.prepare
    if prepare.source == "photos":
        return prepare.train_images or prepare.photos.train_crops, prepare.test_images or prepare.photos.test_crops
    return prepare.train_images or 50_000, prepare.test_images or 10_000


def job(params: Params, rule: str, cell: Cell) -> PlannedJob:
    """Return the cost of one job.

    Args:
        params: parameters of the preset.
        rule: one of TRAININGS or EVALUATIONS.
        cell: the model; for pretraining, the cell of the network that is trained.
    """
    assert rule in TRAININGS + EVALUATIONS, rule
    adds, size = network_costs.multiply_adds(params, cell), params.prepare.image_size
    forward = 2 * sum(adds.values())  # FLOP
    weights = 4 * sum(network_costs.parameters(params, cell).values())
    working = network_costs.working_bytes(params, cell)
    train_images, test_images = image_numbers(params)
    launches, images = 0, test_images
    if rule in TRAININGS:
        options = _training(params, rule, cell)
        images, steps = train_images, options.steps
        operations = 3 * forward * options.batch * steps
        step_bytes = 4 * weights + options.batch * network_costs.kept_bytes(params, cell)  # gradients, Adamax's two moments, average
        memory = weights + max(step_bytes, options.init_images * network_costs.working_bytes(params, cell, likelihood=False))
    elif rule == "evaluate_bound":
        steps, operations = _batches(images, params.evaluate.batch), forward * images
        memory = weights + min(params.evaluate.batch, images) * working
    elif rule == "evaluate_iwae":
        samples, chosen = params.evaluate.iwae_samples, params.evaluate.iwae_images or images
        encode = 2 * adds.get("encoder", 0)  # once an image
        steps = chosen * _batches(samples, params.evaluate.batch)
        operations = chosen * (encode + samples * (forward - encode))
        memory = weights + min(params.evaluate.batch, samples) * working
    elif rule == "codec_cell":
        chosen = min(images, params.codec.images)
        batches = _batches(chosen, params.codec.group)
        steps = batches * size**2
        launches = LAUNCHES_PER_BLOCK * batches * _sequential_blocks(params) if cell.has_pixelcnn_pp else 0
        operations = DOUBLE * chosen * (2 * forward + SOLVING * 2 * adds.get("decoder", 0))
        memory = DOUBLE * (weights + min(params.codec.group, chosen) * (working + network_costs.cache_bytes(params, cell)))
    else:
        passes = (2 if cell.has_vae else 1) if cell.has_pixelcnn_pp else 0  # given a reconstruction, and given a draw from the prior
        batches = _batches(params.sample.images, params.sample.batch)
        steps = passes * batches * size**2
        launches = LAUNCHES_PER_BLOCK * passes * batches * _sequential_blocks(params)
        operations = params.sample.images * max(1, passes) * forward
        if cell.kind in COSTS:
            steps, launches = batches, 0
            operations = round(params.sample.images * COSTS[cell.kind].passes(params) * forward)
        memory = weights + min(params.sample.batch, params.sample.images) * (working + network_costs.cache_bytes(params, cell))
    fixed = COSTS[cell.kind].fixed(params) if cell.kind in COSTS else 0
    memory += fixed
    data = images * 3 * size**2
    on_gpu = params.compute.device == "cuda"
    own = GPU_PROCESS + 4 * weights + fixed if on_gpu else PROCESS + memory  # the state of a GPU is copied to the CPU to be saved
    return PlannedJob(rule, cell.kind, steps, operations, launches, memory + 2 * data, own + IMAGE_COPIES * data + SNAKEMAKE)


def seconds(job: PlannedJob, throughput: Throughput) -> float:
    """Estimate the time of a job, seconds."""
    rates = throughput.training if job.rule in TRAININGS else throughput.evaluation
    return throughput.startup + job.operations / rates.get(job.kind, rates["pixelcnn_pp"]) + LAUNCH_SECONDS * job.launches


def mem_mb(job: PlannedJob, attempt: int = 1) -> int:
    """Return the memory to ask for, MiB: the estimate plus Snakemake, rounded up to hundreds, times the attempt."""
    return attempt * 100 * math.ceil((job.host_memory / MIB + SNAKEMAKE_MIB) / 100)


def minutes(job: PlannedJob, throughput: Throughput, attempt: int = 1) -> int:
    """Return the time to ask for, minutes: MARGIN times the estimate, half an hour at least.

    A job that did not end in time asks for that much more at each attempt. A training resumes from its saved state, so it never asks
    for more than LONGEST_TRAINING.
    """
    wanted = max(30, math.ceil(MARGIN * seconds(job, throughput) / 60))
    return min(wanted, LONGEST_TRAINING) if job.rule in TRAININGS else attempt * wanted


def jobs(params: Params) -> list[tuple[PlannedJob, int]]:
    """Return the different jobs of a preset that run a network, in data-flow order, each with its number."""
    seeds, every = len(params.grid.seeds), grid.all_cells(params)
    resolutions = sorted({cell.resolution for cell in every if cell.has_vae})
    found = [(job(params, "pretrain_vae", Cell("vae", resolution=resolution)), seeds) for resolution in resolutions]
    found.append((job(params, "pretrain_pixelcnn_pp", Cell("pixelcnn_pp", resolution=params.prepare.image_size)), seeds))
    for rule, chosen, times in (
        ("joint_cell", every, seeds),
        ("evaluate_bound", every, seeds),
        ("evaluate_iwae", grid.sampled_cells(params), seeds),
        ("sample_cell", every, seeds),
        ("codec_cell", grid.codec_cells(params), 1),
    ):
        found += [(job(params, rule, cell), times) for cell in chosen]
    return found


def small_jobs() -> dict[str, int]:
    """Return the jobs without a network, as {rule: number}. Each takes seconds to a minute, which is counted as the start of a job."""
    return {"prepare_images": 1, "compress_with_formats": 1, "write_tables": 1, "figures": len(figures.NAMES)}


def make(params: Params, throughput: Throughput, devices: int = 1) -> dict[str, Any]:
    """Return the plan of a preset as plain values.

    Args:
        params: parameters of the preset.
        throughput: throughput of one device.
        devices: number of devices that work side by side.

    Returns:
        {"rules": one entry per rule, "total": ..., "wall_hours": ..., "throughput": ..., "devices": devices}; operations in FLOP,
        memory in bytes, time in hours.
    """
    everything = jobs(params)
    rules: list[dict[str, Any]] = []
    for rule in TRAININGS + EVALUATIONS:
        own = [(one, times) for one, times in everything if one.rule == rule]
        longest = max(own, key=lambda pair: seconds(pair[0], throughput))[0]
        rules.append(
            {
                "rule": rule,
                "jobs": sum(times for _, times in own),
                "steps_per_job": longest.steps,
                "operations": sum(one.operations * times for one, times in own),
                "memory": max(one.memory for one, _ in own),
                "host_memory": max(one.host_memory for one, _ in own),
                "hours_per_job": seconds(longest, throughput) / 3600,
                "device_hours": sum(seconds(one, throughput) * times for one, times in own) / 3600,
            }
        )
    small = {rule: {"jobs": number, "hours": number * throughput.startup / 3600} for rule, number in small_jobs().items()}
    total = {
        "jobs": sum(rule["jobs"] for rule in rules) + sum(entry["jobs"] for entry in small.values()),
        "operations": sum(rule["operations"] for rule in rules),
        "device_hours": sum(rule["device_hours"] for rule in rules),
    }
    work = total["device_hours"] + sum(entry["hours"] for entry in small.values())
    chain = longest_chain(params, throughput)
    return {
        "rules": rules,
        "small": small,
        "total": total,
        "devices": devices,
        "longest_chain_hours": chain,
        # no order of jobs is faster than the first; none that leaves no device idle while a job is ready is slower than the second
        "wall_hours": [max(work / devices, chain), work / devices + chain * (1 - 1 / devices)],
        "throughput": {
            "device": throughput.device,
            "origin": throughput.origin,
            "startup": throughput.startup,
            "training": dict(throughput.training),
            "evaluation": dict(throughput.evaluation),
        },
    }


def longest_chain(params: Params, throughput: Throughput) -> float:
    """Return the hours of the longest chain of jobs that wait for each other: pretraining, joint training, evaluation."""

    def time(rule: str, cell: Cell) -> float:
        return seconds(job(params, rule, cell), throughput)

    longest, evaluated, compressed = 0.0, grid.sampled_cells(params), grid.codec_cells(params)
    for cell in grid.all_cells(params):
        begin = []
        if cell.has_vae:
            begin.append(time("pretrain_vae", Cell("vae", resolution=cell.resolution)))
        if cell.has_pixelcnn_pp:
            begin.append(time("pretrain_pixelcnn_pp", Cell("pixelcnn_pp", resolution=cell.resolution)))
        ends = {rule: time(rule, cell) for rule in EVALUATIONS}
        ends["codec_cell"] += ends["evaluate_bound"]
        if cell not in evaluated:
            del ends["evaluate_iwae"]
        if cell not in compressed:
            del ends["codec_cell"]
        longest = max(longest, max(begin, default=0.0) + time("joint_cell", cell) + max(ends.values()))
    return (longest + 3 * throughput.startup) / 3600  # prepare, tables, a figure


def plan_text(plan: Mapping[str, Any], params: Params, preset: str) -> str:
    """Return a plan as text for a terminal, which says what is counted, assumed and measured."""
    rows = [("rule", "jobs", "steps/job", "FLOP", "device memory", "host memory", "time/job", "device time")]
    for rule in plan["rules"]:
        memory = [_bytes(rule[key]) for key in ("memory", "host_memory")]
        time = [_time(rule[key]) for key in ("hours_per_job", "device_hours")]
        rows.append((rule["rule"], f"{rule['jobs']}", f"{rule['steps_per_job']:,}", _flop(rule["operations"]), *memory, *time))
    rows += [(rule, f"{entry['jobs']}", "small", "", "", "", "", _time(entry["hours"])) for rule, entry in plan["small"].items()]
    total = plan["total"]
    rows.append(("total", f"{total['jobs']}", "", _flop(total["operations"]), "", "", "", _time(total["device_hours"])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"preset {preset}, estimated for {plan['throughput']['device']}", ""]
    lines += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    least, most = map(_time, plan["wall_hours"])
    side = "1 device" if plan["devices"] == 1 else f"{plan['devices']} devices side by side"
    lines += [
        "",
        f"wall time on {side}: {least if least == most else f'{least} to {most}'}",
        f"longest chain of jobs that wait for each other: {_time(plan['longest_chain_hours'])}",
        "",
        *_notes(plan, params),
    ]
    return "\n".join(lines) + "\n"


def _notes(plan: Mapping[str, Any], params: Params) -> list[str]:
    rates = plan["throughput"]

    def shown(which: str) -> str:
        values = {kind: f"{rate / 1e12:.3g}" for kind, rate in rates[which].items()}
        return next(iter(values.values())) if len(set(values.values())) == 1 else ", ".join(f"{v} ({k})" for k, v in values.items())

    train, test = image_numbers(params)
    lines = [
        "Counted   operations of the convolutions, 2 FLOP a multiply-add; a training step is 3 forward passes (1 forward, 2 backward),",
        f"          the one-sample bound 1 an image, IWAE {params.evaluate.iwae_samples} with the bottom-up pass once, a drawn image 1,",
        f"          a compressed image {2 * DOUBLE} and {SOLVING * DOUBLE} of the VAE's decoder",
        f"Device    TFLOP/s: training {shown('training')}",
        f"                   evaluation and sampling, in float32, {shown('evaluation')}",
        f"          {rates['origin']}",
        f"Assumed   {train:,} training and {test:,} test images; one device a job; {rates['startup']:.1f} s until a job computes;",
        f"          {LAUNCH_SECONDS * 1e6:.0f} microseconds for each of the small operations that the sampler does one after another",
        "Left out  initialisation, saved states, waiting in a queue",
    ]
    if params.prepare.source == "images" and None in (params.prepare.train_images, params.prepare.test_images):
        lines.append("          how many images the file holds: the numbers are those of CIFAR-10")
    lines.append(f"Estimates memory within a quarter; time within a factor of {MARGIN}, better if measured here at the batch of the preset")
    return lines


def _training(params: Params, rule: str, cell: Cell) -> Training:
    pretrain = {"pretrain_vae": params.pretrain.vae, "pretrain_pixelcnn_pp": params.pretrain.pixelcnn_pp}
    return pretrain.get(rule) or grid.training_of(cell, params)


def _batches(images: int, batch: int) -> int:
    return math.ceil(images / batch)


def _sequential_blocks(params: Params) -> int:
    """Count the gated blocks that the cached sampler computes one after another for an image, and one for drawing each pixel."""
    size = params.prepare.image_size
    return horizontal_steps(params.model.pixelcnn_pp, size) + size**2


def _figures(value: float) -> str:
    """Return a number with three significant figures, never in powers of ten."""
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}"


def _flop(value: int) -> str:
    unit, name = max(((u, n) for u, n in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1.0, "")) if value >= u), default=(1.0, ""))
    return f"{_figures(value / unit)} {name}"


def _bytes(value: int) -> str:
    return f"{_figures(value / GIB)} GiB" if value >= GIB else f"{_figures(value / MIB)} MiB"


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{_figures(hours)} h"
    return f"{_figures(60 * hours)} min" if hours >= 1 / 60 else f"{_figures(3600 * hours)} s"
