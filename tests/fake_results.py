"""A results tree of the right shape without any training: smooth random images, numbers that move as the paper says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from agave import grid
from agave.config import Params
from agave.csv_tables import write_table
from agave.grid import Cell
from agave.measures import measure
from agave.provenance.run_record import Recorder
from agave.published import TABLE_1
from agave.results import (
    IMAGE_FORMATS,
    bound_path,
    codec_arrays_path,
    codec_path,
    compressed_path,
    growth_path,
    history_paths,
    iwae_arrays_path,
    iwae_path,
    measures_path,
    per_image_path,
    samples_path,
    shown_path,
)
from agave.schemas import BOUND_QUANTITIES, CELL_SCHEMA, HISTORY_SCHEMA
from agave.steps import trainings

MAPPED_IMAGES = 6  # as in agave.evaluation.one_sample, which would load torch
IMAGES, IWAE_IMAGES = 500, 50  # test images, and how many of them the importance-sampled bound is of


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
    pixelcnn_pp += {row.system: 2 * (float(row.bits_per_dim) - 2.91) for row in TABLE_1}.get(cell.kind, 0.0)
    return {
        "cell": cell.name,
        "kind": cell.kind,
        "kl_weight": cell.kl_weight if cell.has_vae else "",
        "levels": cell.levels if cell.has_vae else "",
        "resolution": cell.resolution if cell.has_vae else "",
        "auxiliary": cell.auxiliary,
        "seed": seed,
        "data_set": data_set,
        "images": IMAGES,
        "precision": "float32",
        "kl": kl,
        "vae_reconstruction": vae if cell.has_vae else "",
        "pixelcnn_reconstruction": pixelcnn_pp if cell.models_x else "",
        "vae_bits_per_dim": (kl + vae) / ratio if cell.has_vae else "",
        "pixelcnn_bits_per_dim": kl + pixelcnn_pp if cell.models_x else "",
    }


def write_row(path: Path, row: dict[str, object]) -> None:
    write_table(path, [row])


def measured(name: str, nats: np.ndarray, dimensions: int) -> dict[str, float]:
    """Mean over images and its standard error, bits/dim."""
    bits = nats / dimensions / np.log(2)
    return {name: bits.mean(), f"{name}_standard_error": bits.std(ddof=1) / len(bits) ** 0.5}


def terms_of(cell: Cell, seed: int, params: Params, row: dict[str, object]) -> dict[str, np.ndarray]:
    """The bound of `bound` image by image, in nats: images differ a lot, models on the same image little."""
    generator = np.random.default_rng(5)
    hardness = generator.normal(0, 0.9, IMAGES)  # of an image, for every model
    own = np.random.default_rng([len(cell.name), cell.levels, int(100 * cell.kl_weight), seed]).normal(0, 0.01, IMAGES)
    apart = hardness - hardness.mean() + own - own.mean()
    nats = 3 * params.prepare.image_size**2 * np.log(2)
    terms = {"kl": np.full(IMAGES, float(str(row["kl"])) * nats)}
    for name, key in (("log_prob_x", "pixelcnn_reconstruction"), ("log_prob_y", "vae_reconstruction")):
        if row[key] != "":
            terms[name] = -(float(str(row[key])) + apart) * nats
    return terms


def bits_of(cell: Cell, seed: int, params: Params) -> dict[str, np.ndarray]:
    """Bits of pixels, more at the edges of an image."""
    if not cell.models_x:
        return {}
    size, mapped = params.prepare.image_size, MAPPED_IMAGES if cell in grid.mapped_cells(params) else 0
    bits = np.random.default_rng([len(cell.name), seed]).gamma(9, 1.0, (mapped + 1, size, size)).astype(np.float32)
    return {"bits_map": bits[-1]} | ({"bits_of_pixels": bits[:-1]} if mapped else {})


def errors_of(terms: dict[str, np.ndarray], cell: Cell, params: Params) -> dict[str, object]:
    """The standard errors of a bound.csv."""
    size = 3 * params.prepare.image_size**2
    parts: dict[str, tuple[np.ndarray, int]] = {"kl": (terms["kl"], size)}
    for decoder, name, dimensions in (("vae", "log_prob_y", 3 * cell.resolution**2), ("pixelcnn", "log_prob_x", size)):
        if name in terms:
            parts[f"{decoder}_reconstruction"] = (-terms[name], size)
            parts[f"{decoder}_bits_per_dim"] = (terms["kl"] - terms[name], dimensions)
    errors = {f"{name}_standard_error": measured(name, *part)[f"{name}_standard_error"] for name, part in parts.items()}
    return {f"{name}_standard_error": errors.get(f"{name}_standard_error", "") for name in BOUND_QUANTITIES}


def write_iwae(results: Path, cell: Cell, seed: int, params: Params, row: dict[str, object], terms: dict[str, np.ndarray]) -> None:
    """The importance-sampled bound of the first IWAE_IMAGES images: lower than the one-sample bound by 0.004 log K in the mean."""
    size = 3 * params.prepare.image_size**2
    last = params.evaluate.iwae_samples
    counts = np.array([count for count in (1, 2, 5, 10, 50, 150) if count < last] + [last])
    elbo = (terms.get("log_prob_x", terms.get("log_prob_y", 0.0)) - terms["kl"])[:IWAE_IMAGES]
    gains = 0.004 * size * np.log(2) * np.log(counts) * np.random.default_rng(6).uniform(0.5, 1.5, (IWAE_IMAGES, 1))
    np.savez(results / iwae_arrays_path(cell, seed), iwae=elbo + gains[:, -1], elbo=elbo, growth=elbo[:, None] + gains, samples=counts)
    same = {key: row[key] for key in CELL_SCHEMA} | {"images": IWAE_IMAGES}
    bounds = measured("elbo_bits_per_dim", -elbo, size) | measured("iwae_bits_per_dim", -elbo - gains[:, -1], size)
    write_row(results / iwae_path(cell, seed), same | {"samples": last} | bounds)
    rows = [
        same | {"samples": count} | measured("iwae_bits_per_dim", -elbo - gain, size) | measured("gain", gain, size)
        for count, gain in zip(counts, gains.T, strict=True)
    ]
    write_table(results / growth_path(cell, seed), rows)


def write_codec(results: Path, cell: Cell, seed: int, params: Params, terms: dict[str, np.ndarray], data_set: str) -> None:
    """Files 0.02 % longer than the bound; the first two images of a model with latent variables are coded without them, for 5 % more."""
    count, size = params.codec.images, 3 * params.prepare.image_size**2
    bound_bits = (terms["kl"] - terms.get("log_prob_x", terms.get("log_prob_y", 0.0)))[:count] / np.log(2)
    count = len(bound_bits)
    by_model = np.arange(count) >= (2 if cell.has_vae else 0)
    bits = bound_bits * np.where(by_model, 1.0002, 1.05)
    data = bytes(int(bits.sum() / 8) + 40)
    row = {
        "cell": cell.name,
        "seed": seed,
        "data_set": data_set,
        "images": count,
        "exact_images": count,
        "bound": "elbo" if cell.has_vae else "exact",
        "bound_bits_per_dim": bound_bits.mean() / size,
        "file_bytes": len(data),
        "file_bits_per_dim": 8 * len(data) / count / size,
        "overhead_percent": 100 * (8 * len(data) / bound_bits.sum() - 1),
        "images_without_latent_variables": int((~by_model).sum()),
        "overhead_percent_of_the_others": 100 * (bits[by_model].sum() / bound_bits[by_model].sum() - 1) if by_model.any() else None,
    }
    write_row(results / codec_path(cell, seed), row)
    np.savez(results / codec_arrays_path(cell, seed), bits=bits, bound_bits=bound_bits, by_model=by_model)
    (results / compressed_path(cell, seed)).write_bytes(data)


def write_formats(results: Path, params: Params, data_set: str) -> None:
    columns = ("one_file_each", "without_header", "one_picture")
    same = {"data_set": data_set, "images": params.codec.images}
    rows = [
        same | {"format": name} | {f"{column}_bits_per_dim": value - 0.2 * place for place, column in enumerate(columns)}
        for name, value in (("PNG", 5.8), ("WebP", 4.7), ("JPEG XL", 4.1))
    ]
    write_table(results / IMAGE_FORMATS, rows)


def write_results(params: Params, results: Path, data_set: str = "photos test (500 crops)") -> None:
    """Everything that `agave tables` and `agave figures` read."""
    size, count = params.prepare.image_size, params.sample.images
    for number, cell in enumerate(grid.all_cells(params)):
        for seed in params.grid.seeds:
            row = bound(cell, seed, params, data_set)
            terms = terms_of(cell, seed, params, row)
            write_row(results / bound_path(cell, seed), row | errors_of(terms, cell, params))
            np.savez(results / per_image_path(cell, seed), **terms, **bits_of(cell, seed, params))
            if cell in grid.sampled_cells(params):
                write_iwae(results, cell, seed, params, row, terms)
            if cell in grid.codec_cells(params) and seed == params.grid.seeds[0]:
                write_codec(results, cell, seed, params, terms, data_set)
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
            }.get(cell.kind, ("original", "prior_sample"))
            drawn = {key: arrays[key] for key in keys}
            shown = params.sample.shown if seed == params.grid.seeds[0] else 0
            for path, content in (
                (samples_path, drawn),
                (shown_path, {key: array[:shown] for key, array in drawn.items()}),
                (measures_path, measure(drawn, test_images=cell.kind == "pixelcnn_pp")),
            ):
                (results / path(cell, seed)).parent.mkdir(parents=True, exist_ok=True)
                np.savez(results / path(cell, seed), **content)
    write_formats(results, params, data_set)
    for (stage, name, seed), path_name in history_paths(params).items():
        write_history(results / path_name, stage, name, seed, params)
        write_record((results / path_name).with_name("run.json"), stage, [results / path_name])
    trainings.gather(params, "fake", results)


def write_record(path: Path, step: str, outputs: list[Path]) -> None:
    Recorder(step, {}, {}, "cpu").write(path, outputs)


def write_history(path: Path, stage: str, name: str, seed: int, params: Params) -> None:
    has_vae = not name.startswith("pixelcnn_pp")
    has_pixelcnn_pp = not name.startswith("vae")
    steps = params.joint.steps if stage == "joint" else (params.pretrain.vae if has_vae else params.pretrain.pixelcnn_pp).steps
    generator = np.random.default_rng(len(name) + seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*HISTORY_SCHEMA, "gradient_norm", "learning_rate", "skipped"])
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
