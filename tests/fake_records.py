"""A results tree with the run record of every job: the files are a line each, the records are real."""

from __future__ import annotations

from pathlib import Path

from fake_results import write_history

from agave import figures, grid, tables
from agave.config import Params
from agave.provenance.run_record import Record
from agave.results import bound_path, claim_inputs, history_paths, iwae_path, samples_path
from agave.steps import trainings


def write_records(params: Params, preset: str) -> Path:
    """Write results/<preset> below the working directory, which holds params.yaml and claims.yaml."""
    results = Path("results") / preset
    images, weights = {"images": results / "prepare/test.npy"}, "model.safetensors"
    job("prepare", {"prepare": params.prepare.model_dump()}, {}, results / "prepare/run.json", "train.npy", "test.npy", "manifest.json")
    for (stage, name, seed), path in history_paths(params).items():
        folder = results / Path(path).parent
        inputs = {"images": results / "prepare/train.npy"}
        if stage == "joint" and name != "pixelcnn_pp":
            resolution = grid.parse(name, params.prepare.image_size, params.pretrain.vae_kl_weight).resolution
            inputs["vae"] = results / f"pretrain/vae-resolution~{resolution}/seed~{seed}" / weights
        write_history(results / path, stage, name, seed, params)
        job(stage, {"cell": name, "compute": params.compute.model_dump()}, inputs, folder / "run.json", weights, "history.csv")
    trainings.gather(params, preset, results)
    for cell in grid.all_cells(params):
        for seed in params.grid.seeds:
            given = images | {"model": results / f"joint/{cell.name}/seed~{seed}" / weights}
            options = {"cell": cell.name, "seed": seed, "precision": "float32"}
            bound = results / bound_path(cell, seed)
            job("evaluate", options, given, bound.with_suffix(".json"), "bound.csv", "per_image.npz")
            if cell in grid.table_cells(params):
                record = (results / iwae_path(cell, seed)).with_suffix(".json")
                job("evaluate", options, given, record, "iwae.csv", "growth.csv", "iwae.npz")
            if seed == params.grid.seeds[0]:
                job("sample", options, given, (results / samples_path(cell, seed)).with_suffix(".json"), "samples.npz")
    job("tables", {"grid": params.grid.model_dump()}, under(results, tables.inputs(params)), results / "tables/run.json", *tables.FILES)
    for name in figures.NAMES:
        outputs = [Path(path).name for path in figures.outputs(name)]
        job("figures", {"dpi": 200}, under(results, figures.inputs(name, params)), results / f"figures/figure{name}.json", *outputs)
    read = {"claims.yaml": Path("claims.yaml")} | under(results, claim_inputs(params))
    job("claims", {}, read, results / "claims/run.json", "claims.csv", "claims.md")
    return results


def under(results: Path, paths: list[str]) -> dict[str, Path]:
    return {path: results / path for path in paths}


def job(step: str, options: dict[str, object], inputs: dict[str, Path], record: Path, *outputs: str) -> None:
    started = Record(step, options, inputs, device="cpu")
    record.parent.mkdir(parents=True, exist_ok=True)
    for name in outputs:
        if not (record.parent / name).exists():
            text = f'{{"name": "{record.parent / name}"}}\n'
            (record.parent / name).write_text(text)
    started.write(record, [record.parent / name for name in outputs])
