"""A results tree of the right shape without any training: smooth random images, numbers that move as the paper says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from agave import grid
from agave.config import Params
from agave.grid import Cell
from agave.provenance.run_record import Record
from agave.results import (
    GROWTH_COLUMNS,
    HISTORY_COLUMNS,
    bound_path,
    growth_path,
    history_paths,
    iwae_arrays_path,
    iwae_path,
    per_image_path,
    samples_path,
)
from agave.steps import records, trainings


def images(generator: np.random.Generator, count: int, size: int, detail: int = 4) -> np.ndarray:
    coarse = generator.uniform(0, 255, (count, detail, detail, 3))
    places = np.linspace(0, detail - 1, size)
    low = np.floor(places).astype(int).clip(0, detail - 2)
    part = places - low
    rows = coarse[:, low] * (1 - part)[None, :, None, None] + coarse[:, low + 1] * part[None, :, None, None]
    both = rows[:, :, low] * (1 - part)[None, None, :, None] + rows[:, :, low + 1] * part[None, None, :, None]
    return both.astype(np.uint8)


def bound(cell: Cell, seed: int, params: Params, data_set: str) -> dict[str, object]:
    shift = 0.003 * seed
    ratio = (cell.resolution / params.prepare.image_size) ** 2
    kl = 0.57 / cell.kl_weight if cell.has_vae else 0.0
    if not cell.auxiliary:
        kl = 0.0002
    vae = (6.6 - 1.6 * kl) * ratio * (np.log2(cell.levels) / 8) + shift
    pixelcnn_pp = 3.79 - 0.45 * kl + 0.003 * np.log2(cell.levels) + shift
    row: dict[str, object] = {
        "cell": cell.name,
        "kind": cell.kind,
        "kl_weight": cell.kl_weight if cell.has_vae else "",
        "levels": cell.levels if cell.has_vae else "",
        "resolution": cell.resolution if cell.has_vae else "",
        "auxiliary": cell.auxiliary,
        "seed": seed,
        "data_set": data_set,
        "images": 500,
        "precision": "float32",
        "kl": kl,
        "vae_reconstruction": vae if cell.has_vae else "",
        "pixelcnn_reconstruction": pixelcnn_pp if cell.has_pixelcnn_pp else "",
        "vae_bits_per_dim": (kl + vae) / ratio if cell.has_vae else "",
        "pixelcnn_bits_per_dim": kl + pixelcnn_pp if cell.has_pixelcnn_pp else "",
    }
    errors = {
        "kl": 0.002,
        "vae_reconstruction": 0.03,
        "pixelcnn_reconstruction": 0.04,
        "vae_bits_per_dim": 0.031,
        "pixelcnn_bits_per_dim": 0.041,
    }
    return row | {f"{key}_standard_error": value if row[key] != "" else "" for key, value in errors.items()}


def write_row(path: Path, row: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)


def write_growth(path: Path, same: dict[str, object], one_sample: float, samples: int) -> None:
    counts = [count for count in (1, 2, 5, 10, 50, 150) if count < samples] + [samples]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*same, *GROWTH_COLUMNS[-5:]])
        writer.writeheader()
        for count in counts:
            gain = 0.004 * float(np.log(count))
            values = (count, one_sample - gain, 0.12, gain, 0.0002 * (count > 1))
            writer.writerow(same | dict(zip(GROWTH_COLUMNS[-5:], values, strict=True)))


def write_terms(results: Path, cell: Cell, seed: int, params: Params, row: dict[str, object]) -> None:
    """The same bound image by image, in nats: images differ a lot, models on the same image little."""
    generator, size = np.random.default_rng(5), params.prepare.image_size
    hardness = generator.normal(0, 0.9, 50)  # of an image, for every model
    own = np.random.default_rng([len(cell.name), cell.levels, int(100 * cell.kl_weight), seed]).normal(0, 0.01, 50)
    nats = 3 * size**2 * np.log(2)
    terms = {"kl": np.full(50, float(str(row["kl"])) * nats)}
    for name, key in (("log_prob_x", "pixelcnn_reconstruction"), ("log_prob_y", "vae_reconstruction")):
        if row[key] != "":
            terms[name] = -(float(str(row[key])) + hardness + own) * nats
    np.savez(results / per_image_path(cell, seed), **terms)
    if cell in grid.table_cells(params):
        counts = np.array(
            [count for count in (1, 2, 5, 10, 50, 150) if count < params.evaluate.iwae_samples] + [params.evaluate.iwae_samples]
        )
        elbo = terms.get("log_prob_x", terms.get("log_prob_y", 0.0)) - terms["kl"]
        growth = elbo[:, None] + 0.004 * nats * np.log(counts) * generator.uniform(0.5, 1.5, (50, 1))
        np.savez(results / iwae_arrays_path(cell, seed), iwae=growth[:, -1], elbo=elbo, growth=growth, samples=counts)


def write_results(params: Params, results: Path, data_set: str = "photos test (500 crops)") -> None:
    """Everything that `agave tables` and `agave figures` read."""
    size, count = params.prepare.image_size, params.sample.images
    for number, cell in enumerate(grid.all_cells(params)):
        for seed in params.grid.seeds:
            row = bound(cell, seed, params, data_set)
            write_row(results / bound_path(cell, seed), row)
            write_terms(results, cell, seed, params, row)
            if cell in grid.table_cells(params):
                one_sample = float(str(row["pixelcnn_bits_per_dim"] or row["vae_bits_per_dim"]))
                same = {key: row[key] for key in ("cell", "kind", "kl_weight", "levels", "resolution", "auxiliary", "seed", "data_set")}
                numbers = {
                    "images": 50,
                    "precision": "float32",
                    "samples": params.evaluate.iwae_samples,
                    "elbo_bits_per_dim": one_sample,
                    "elbo_bits_per_dim_standard_error": 0.12,
                    "iwae_bits_per_dim": one_sample - 0.008,
                    "iwae_bits_per_dim_standard_error": 0.12,
                }
                write_row(results / iwae_path(cell, seed), same | numbers)
                write_growth(
                    results / growth_path(cell, seed),
                    same | {"images": 50, "precision": "float32"},
                    one_sample,
                    params.evaluate.iwae_samples,
                )
            arrays = {"original": images(np.random.default_rng(1), count, size, 6)}
            for index, key in enumerate(("reconstruction", "prior")):
                arrays[key] = images(np.random.default_rng(100 * number + index), count, cell.resolution)
                noise = np.random.default_rng(index).normal(0, 12, (count, size, size, 3))
                scale = size // cell.resolution
                arrays[f"{key}_sample"] = (arrays[key].repeat(scale, 1).repeat(scale, 2) + noise).clip(0, 255).astype(np.uint8)
            arrays["completion"] = arrays["original"].copy()
            rows = params.sample.completion_rows
            arrays["completion"][:, rows:] = arrays["prior_sample"][:, rows:]
            arrays["prior_draw"] = arrays["prior"] if cell.resolution < size else arrays["prior_sample"]
            keys = {
                "vae": ("original", "reconstruction", "prior", "prior_draw"),
                "pixelcnn_pp": ("original", "prior_sample", "completion"),
                "agave": tuple(arrays),
            }[cell.kind]
            path = results / samples_path(cell, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **{key: arrays[key] for key in keys})
    for (stage, name, seed), path_name in history_paths(params).items():
        write_history(results / path_name, stage, name, seed, params)
        write_record((results / path_name).with_name("run.json"), stage, [results / path_name])
    trainings.gather(params, "fake", results)


def write_records(params: Params, results: Path) -> None:
    """A manifest, and the run record of every step that has run: each names the files that lie beside it, as they are now."""
    (results / "prepare").mkdir(parents=True, exist_ok=True)
    (results / "prepare/manifest.json").write_text(json.dumps({"source": "photos", "image_size": params.prepare.image_size}))
    for step, paths in records.record_paths(params).items():
        for path in map(results.joinpath, paths):
            beside = [file for file in sorted(path.parent.glob("*")) if file.suffix != ".json" or file.name == "manifest.json"]
            write_record(path, step, [file for file in beside if step != "figures" or file.stem == path.stem])


def write_record(path: Path, step: str, outputs: list[Path]) -> None:
    Record(step, {}, {}, "cpu").write(path, outputs)


def write_history(path: Path, stage: str, name: str, seed: int, params: Params) -> None:
    has_vae = not name.startswith("pixelcnn_pp")
    has_pixelcnn_pp = not name.startswith("vae")
    steps = params.joint.steps if stage == "joint" else (params.pretrain.vae if has_vae else params.pretrain.pixelcnn_pp).steps
    generator = np.random.default_rng(len(name) + seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*HISTORY_COLUMNS, "gradient_norm", "learning_rate", "skipped"])
        for step in np.linspace(1, steps, 60).astype(int):
            fall = np.exp(-6 * step / steps) + generator.normal(0, 0.01)
            kl = 0.1 + 2 * fall if has_vae else 0.0
            ends = (5.2 + 3 * fall if has_vae else "", 3.8 + 2 * fall if has_pixelcnn_pp else "")
            total = kl + float(ends[1] if has_pixelcnn_pp else ends[0])
            writer.writerow([step, kl if has_vae else "", *ends, total, 40.0, 0.002, 0])


if __name__ == "__main__":
    import sys

    from agave import figures, tables
    from agave.config import load

    preset, target = sys.argv[1], Path(sys.argv[2])
    chosen = load("params.yaml", preset)
    write_results(chosen, target)
    tables.write_tables(chosen, preset, target)
    for figure in sys.argv[3:] or figures.NAMES:
        figures.draw(figure, chosen, preset, target)
