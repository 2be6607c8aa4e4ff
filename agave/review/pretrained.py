"""The trained models in git: write them with a card each, and check by computing them what is said of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agave import grid
from agave.errors import UserError
from agave.files import atomic_write, sha256
from agave.grid import Cell
from agave.provenance.lineage import WEIGHTS
from agave.provenance.run_record import RunRecord
from agave.results import Results, bound_path, compressed_path, training_names
from agave.review.checks import Check
from agave.schemas import BOUND_SCHEMA

if TYPE_CHECKING:
    from agave.data.arrays import ImageArray

FOLDER = Path("pretrained")
KL_WEIGHTS = (2, 12)
FACTS, CARD, COMPRESSED = "facts.json", "README.md", "images.agv"
TOLERANCE = 1e-6
"""Largest difference of a bound that is computed again, bits/dim: rounding on another CPU moves the mean over images by less."""

TEXT = """# {cell}

| | |
| --- | --- |
| Model | {system}, {parameters:,} parameters, averaged weights; `model.safetensors`, SHA-256 `{sha256}` |
| Images | {train_set}; 8-bit colour, {size}x{size} pixels |
| Training | {trainings}; seed {seed} |
| Result | {bits_per_dim:.6f} bits/dim on {test_set}: {number} |
| Made by | preset {preset} of params.yaml; its run records are in results/{preset} |
| Licence | of the weights: that of this repository (LICENSE). Of the photographs: {licence} |

A small model, trained in minutes on crops of four photographs: for tests, tutorials and `agave compress`, not for comparisons.
`facts.json` says how the images are made, so that `make verify` can compute the result again.
"""


def given_away(source: Results) -> list[Cell]:
    """Return the cells whose models are in git: PixelCNN++ alone, and AGAVE with y = x at `KL_WEIGHTS`."""
    with_weights = [cell for cell in grid.kl_weight_cells(source.params) if cell.kl_weight in KL_WEIGHTS]
    return [grid.baselines(source.params)[1], *with_weights]


def write_pretrained(source: Results, records: Sequence[RunRecord], folder: Path = FOLDER) -> list[Path]:
    """Copy trained models out of results/<preset>.

    Writes CELL/model.safetensors, README.md (the card), facts.json (what `check_pretrained` needs) and, if the workflow compressed images
    with the model, images.agv.

    Args:
        source: the results of the preset.
        records: all its run records.
        folder: where the folders of the models go.

    Returns:
        The paths of the models.

    Raises:
        UserError: the images are not those that the project itself holds, or a model is missing or not the one that its run record names.
    """
    if source.params.prepare.source != "photos":
        raise UserError(f"preset {source.preset}: its images are not in the project; accepted: a preset of the embedded photographs")
    made = {path: digest for record in records for path, digest in record.files.items()}
    seed, written = source.params.grid.seeds[0], list[Path]()
    for cell in given_away(source):
        path, own = f"joint/{cell.name}/seed~{seed}/{WEIGHTS}", folder / cell.name
        if not (source.folder / path).exists():
            raise source.wrong(path, "missing")
        if sha256(source.folder / path) != made[path]:
            raise source.wrong(path, "is not the file that its run record names")
        facts = _facts(source, records, cell, made)
        stored = {"prepare": source.params.prepare.model_dump(), "evaluate_seed": source.params.evaluate.seed}
        stored |= {name: facts[name] for name in ("sha256", "test_sha256", "bits_per_dim")}
        content = {WEIGHTS: (source.folder / path).read_bytes(), CARD: TEXT.format(**facts).encode()}
        content[FACTS] = (json.dumps(stored, indent=2) + "\n").encode()
        if cell in grid.codec_cells(source.params):
            content[COMPRESSED] = (source.folder / compressed_path(cell, seed)).read_bytes()
        for name, data in content.items():
            with atomic_write(own / name) as temporary:
                temporary.write_bytes(data)
        written.append(own / WEIGHTS)
    return written


def check_pretrained(folder: Path = FOLDER) -> Check:
    """Compute the bounds of the models in git from their weights and the embedded photographs, and decompress what they compressed.

    Args:
        folder: folder of the models.
    """
    models = sorted(path.parent for path in folder.glob(f"*/{FACTS}"))
    check = Check("computed")
    if not models:
        check.problems.append(f"{folder}: holds no model; bring them back with: git checkout HEAD -- {folder}")
    for model in models:
        check.problems += _computed_again(model)
    files = len(list(folder.glob(f"*/{COMPRESSED}")))
    check.summary = f"bounds of {len(models)} models from weights and photographs, to {TOLERANCE:g} bits/dim; {files} files decompressed"
    if check.problems:
        check.summary = f"what is said of the models in {folder} does not come out"
    return check


def _computed_again(model: Path) -> Iterator[str]:
    import numpy as np
    import torch

    from agave.codec.compression import Codec
    from agave.data.arrays import array_sha256

    torch.set_num_threads(1)  # enough for small networks; on a busy machine two that wait for each other take many times as long
    facts = json.loads((model / FACTS).read_text(encoding="utf-8"))
    if sha256(model / WEIGHTS) != facts["sha256"]:
        yield f"{model / WEIGHTS}: another file than {FACTS} beside it says"
        return
    try:
        images = _test_images(json.dumps(facts["prepare"]))
        if array_sha256(images) != facts["test_sha256"]:
            yield f"{model / FACTS}: preparing the photographs gives other images than those that were evaluated"
            return
        difference = abs(_bits_per_dim(model / WEIGHTS, torch.from_numpy(images), facts["evaluate_seed"]) - facts["bits_per_dim"])
        if not difference <= TOLERANCE:
            yield f"{model / WEIGHTS}: gives another bound than {FACTS} beside it says, by {difference:.2g} bits/dim"
        if (model / COMPRESSED).exists():
            path = model / COMPRESSED
            found = Codec.of_file(model / WEIGHTS).decompress(path.read_bytes(), str(path))
            if not np.array_equal(found, images[: len(found)]):
                yield f"{path}: decompresses to other images than the test images"
    except UserError as error:
        yield str(error)


@cache
def _test_images(prepare: str) -> ImageArray:
    """Make the test images that a block `prepare`, as JSON, describes; the models have the same ones."""
    import numpy as np

    from agave.config import Prepare
    from agave.data.sources import SOURCES

    options = Prepare.model_validate_json(prepare)
    return np.ascontiguousarray(SOURCES[options.source](options).test)


def _bits_per_dim(weights: Path, images: Any, seed: int) -> float:
    """Return the one-sample bound, or exact likelihood, of images (N, H, W, 3) as the step `evaluate` computes it."""
    import torch

    from agave.auxiliary_image import auxiliary_image
    from agave.evaluation.one_sample import bound_columns, one_sample_terms
    from agave.models.files import load_model, read_model_metadata
    from agave.models.layers import folded

    model, metadata = load_model(weights), read_model_metadata(weights)
    model.likelihood_dtype = torch.float64
    x_uint8 = images.permute(0, 3, 1, 2).contiguous()
    y_uint8 = auxiliary_image(x_uint8, metadata["resolution"])
    with folded(model):
        values = one_sample_terms(model, x_uint8, y_uint8, seed=seed, batch=10, label=weights.parent.name)
    bits = bound_columns(values, x_uint8[0].numel(), y_uint8[0].numel())["pixelcnn_bits_per_dim"]
    assert bits is not None, "all models in git have a likelihood of x"
    return bits


def _facts(source: Results, records: Sequence[RunRecord], cell: Cell, made: dict[str, str]) -> dict[str, Any]:
    from agave.models import REGISTRY
    from agave.planning.network_costs import parameters

    seed = source.params.grid.seeds[0]
    manifest = json.loads((source.folder / "prepare/manifest.json").read_text(encoding="utf-8"))
    options = {record.folder: record.options["training"] for record in records if "training" in record.options}
    trainings = [(stage, options[f"{stage}/{name}/seed~{seed}"]) for stage, name in training_names(cell)]
    exact = REGISTRY[cell.system].bound == "exact"
    return {
        "cell": cell.name,
        "system": cell.system,
        "parameters": sum(parameters(source.params, cell).values()),
        "sha256": made[f"joint/{cell.name}/seed~{seed}/{WEIGHTS}"],
        "test_sha256": manifest["test"]["sha256"],
        "train_set": manifest["name"]["train"],
        "test_set": manifest["name"]["test"],
        "licence": manifest["licence"],
        "size": source.params.prepare.image_size,
        "trainings": ", ".join(f"{stage} {one['steps']} steps of {one['batch']} images" for stage, one in trainings),
        "seed": seed,
        "bits_per_dim": float(source.table(bound_path(cell, seed), BOUND_SCHEMA)["pixelcnn_bits_per_dim"].iloc[0]),
        "number": "the exact likelihood" if exact else "the one-sample bound",
        "preset": source.preset,
    }
