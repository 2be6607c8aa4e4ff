"""The run record of every job, real, for results of which some or all are made up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fake_results import write_history

from agave import figures, grid, tables
from agave.config import Params
from agave.provenance.lineage import job_inputs
from agave.provenance.run_record import Recorder
from agave.results import bound_path, codec_path, history_paths, iwae_path, measures_path, samples_path
from agave.steps import records, trainings


def write_records(params: Params, preset: str) -> Path:
    """Write the records of the jobs up to `sample` in results/<preset> below the working directory, and the files that are missing."""
    results, seeds = Path("results") / preset, params.grid.seeds
    prepared = {"prepare": params.prepare.model_dump()}
    job(params, results, "prepare", prepared, "prepare/run.json", "train.npy", "test.npy", "manifest.json")
    for (stage, name, seed), path in history_paths(params).items():
        write_history(results / path, stage, name, seed, params)
        options = training_options(params, stage, name.partition("-resolution")[0] if stage == "pretrain" else name, seed)
        job(params, results, stage, options, str(Path(path).with_name("run.json")), "model.safetensors", "raw.safetensors", "history.csv")
    trainings.gather(params, preset, results)
    for cell in grid.all_cells(params):
        for seed in seeds:
            options = {"cell": cell.name, "seed": seed, "evaluate": params.evaluate.model_dump(exclude={"batch"}), "precision": "float32"}
            job(params, results, "evaluate", options, record_of(bound_path(cell, seed)), "bound.csv", "per_image.npz")
            if cell in grid.sampled_cells(params):
                job(params, results, "evaluate", options, record_of(iwae_path(cell, seed)), "iwae.csv", "growth.csv", "iwae.npz")
            options = {"cell": cell.name, "seed": seed, "sample": params.sample.model_dump()}
            drawn = os.path.relpath(samples_path(cell, seed), Path(measures_path(cell, seed)).parent)
            job(params, results, "sample", options, record_of(measures_path(cell, seed)), "measures.npz", "shown.npz", drawn)
    for cell in grid.codec_cells(params):
        options = {"cell": cell.name, "seed": seeds[0], "codec": params.codec.model_dump(include={"images", "group"})}
        job(params, results, "codec", options, record_of(codec_path(cell, seeds[0])), "codec.csv", "codec.npz", "images.agv")
    job(params, results, "formats", {"codec": params.codec.model_dump(include={"images", "others"})}, "formats/run.json", "formats.csv")
    return results


def write_drawn(params: Params, preset: str) -> None:
    """Write the records of the jobs from `tables` on, and a line of text for each table, figure and claim and for the page."""
    results = Path("results") / preset
    job(params, results, "tables", {"grid": params.grid.model_dump()}, "tables/run.json", *tables.FILES)
    for name in figures.NAMES:
        outputs = [Path(path).name for path in figures.outputs(name)]
        job(params, results, "figures", {"figures": params.figures.model_dump()}, f"figures/figure{name}.json", *outputs)
    model = {"model": params.model.model_dump()}
    job(
        params,
        results,
        "claims",
        model,
        "claims/run.json",
        "claims.csv",
        "claims.md",
        "power.csv",
        given={"claims.yaml": Path("claims.yaml")},
    )
    records.write_records(params, preset, results)
    job(params, results, "page", model, "page/run.json", "index.html", given={"claims.yaml": Path("claims.yaml")})


def training_options(params: Params, stage: str, name: str, seed: int) -> dict[str, Any]:
    training = params.pretrain.pixelcnn_pp if name == "pixelcnn_pp" else params.pretrain.vae
    if stage == "joint":
        training = grid.training_of(grid.parse_cell(name, params.prepare.image_size), params)
    return {
        "cell": name,
        "seed": seed,
        "image_size": params.prepare.image_size,
        "model": params.model.model_dump(),
        "compute": {"device": "cpu", "precision": params.compute.precision},
        "training": training.model_dump(),
    }


def record_of(path: str) -> str:
    return str(Path(path).with_suffix(".json"))


def job(
    params: Params, results: Path, step: str, options: dict[str, Any], record: str, *outputs: str, given: dict[str, Path] | None = None
) -> None:
    inputs = {path: results / path for path in job_inputs(params)[record]} | (given or {})
    recorder, path = Recorder(step, options, inputs, "cpu"), results / record
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in outputs:
        if not (path.parent / name).exists():
            (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            text = f'{{"name": "{path.parent / name}"}}\n'
            (path.parent / name).write_text(text)
    recorder.write(path, [path.parent / name for name in outputs])
