"""The trained models in git: write them with a card each, and check what the results say of them by computing it again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agave import grid
from agave.errors import UserError
from agave.files import atomic_write, sha256
from agave.grid import Cell
from agave.provenance.lineage import TEST_IMAGES, WEIGHTS
from agave.provenance.run_record import RunRecord
from agave.results import Results, bound_path, compressed_path, training_names
from agave.review.checks import Check
from agave.schemas import BOUND_SCHEMA

FOLDER = Path("pretrained")
PRESET = "demo"
KL_WEIGHTS = (2, 12)
TOLERANCE = 1e-6
"""Largest difference of a bound that is computed again, bits/dim: rounding on another CPU moves the mean over images by less."""

CARD = """# {cell}

| | |
| --- | --- |
| Model | {system}, {parameters:,} parameters, averaged weights; `model.safetensors`, SHA-256 `{sha256}` |
| Images | {train_set}; 8-bit colour, {size}x{size} pixels |
| Training | {trainings}; seed {seed} |
| Result | {bits:.6f} bits/dim on {test_set}: {number} |
| Made by | preset {preset} of params.yaml; the run records are in results/{preset} |
| Licence | of the weights: that of this repository (LICENSE). Of the photographs: {licence} |

A small model, trained in minutes on crops of four photographs: for tests, tutorials and `agave compress`, not for comparisons.
"""


def given_away(source: Results) -> list[Cell]:
    """Return the cells whose models are in git: PixelCNN++ alone, and AGAVE with y = x at `KL_WEIGHTS`."""
    with_weights = [cell for cell in grid.kl_weight_cells(source.params) if cell.kl_weight in KL_WEIGHTS]
    return [grid.baselines(source.params)[1], *with_weights]


def write_pretrained(source: Results, records: Sequence[RunRecord], folder: Path = FOLDER) -> list[Path]:
    """Copy trained models from results/<preset> to CELL/model.safetensors, and write a card CELL/README.md beside each.

    Args:
        source: the results of the preset.
        records: all its run records.
        folder: where the folders of the models go.

    Returns:
        The paths of the models.

    Raises:
        UserError: the results are of another preset than `PRESET`, or a model is missing or not the one that its run record names.
    """
    if source.preset != PRESET:
        raise UserError(f"preset {source.preset}: its models are not put into {folder}/; accepted: {PRESET}")
    made = {path: digest for record in records for path, digest in record.files.items()}
    seed, written = source.params.grid.seeds[0], list[Path]()
    for cell in given_away(source):
        path = f"joint/{cell.name}/seed~{seed}/{WEIGHTS}"
        if not (source.folder / path).exists():
            raise source.wrong(path, "missing")
        if sha256(source.folder / path) != made[path]:
            raise source.wrong(path, "is not the file that its run record names")
        with atomic_write(folder / cell.name / WEIGHTS) as temporary:
            temporary.write_bytes((source.folder / path).read_bytes())
        with atomic_write(folder / cell.name / "README.md") as temporary:
            temporary.write_text(CARD.format(**_facts(source, records, cell, seed, made[path])), encoding="utf-8")
        written.append(folder / cell.name / WEIGHTS)
    return written


def check_pretrained(source: Results, records: Sequence[RunRecord], folder: Path = FOLDER) -> Check:
    """Compute the bounds of the models in git from their weights and images, and decompress a file that one of them compressed.

    Args:
        source: the results of the preset.
        records: all its run records.
        folder: folder of the models.

    Returns:
        The check. For another preset than `PRESET` there is nothing to compute, which the summary says.
    """
    check = Check("computed")
    if source.preset != PRESET:
        check.summary = f"nothing: the models in {folder}/ are of the preset {PRESET}"
        return check
    made = {path: digest for record in records for path, digest in record.files.items()}
    seed = source.params.grid.seeds[0]
    models = {cell: folder / cell.name / WEIGHTS for cell in given_away(source)}
    for cell, weights in models.items():
        if not weights.exists() or sha256(weights) != made.get(f"joint/{cell.name}/seed~{seed}/{WEIGHTS}"):
            how = "another model than that of these results" if weights.exists() else "missing"
            check.problems.append(f"{weights}: {how}; make it with: agave pretrained --preset {PRESET} --results {source.folder}")
    if not check.problems:
        with tempfile.TemporaryDirectory(prefix="agave-verify-") as name:
            check.problems += _computed_again(source, made, models, seed, Path(name))
    coded = [cell for cell in models if cell in grid.codec_cells(source.params)]
    check.summary = f"bounds of {len(models)} models from weights and images, to {TOLERANCE:g} bits/dim; {len(coded)} files decompressed"
    if check.problems:
        check.summary = "models, bounds or compressed files are not those of the results"
    return check


def _computed_again(source: Results, made: dict[str, str], models: Mapping[Cell, Path], seed: int, folder: Path) -> Iterator[str]:
    """Yield what differs; `folder` is for temporary files."""
    import numpy as np

    from agave.codec.compression import Codec
    from agave.data.arrays import load_images
    from agave.runtime.devices import Place
    from agave.steps.evaluate import Evaluation, evaluate_bound
    from agave.steps.prepare import run as prepare

    data, place = folder / "prepare", Place(folder / "state", device="cpu")
    try:
        prepare(source.params, data)
    except UserError as error:
        yield f"the images cannot be prepared here: {error}"
        return
    if sha256(data / "test.npy") != made[TEST_IMAGES]:
        yield f"{source.folder / TEST_IMAGES}: preparing the images gives others than those that were evaluated"
        return
    for cell, weights in models.items():
        evaluate_bound(Evaluation(source.params, cell, seed, data, weights, folder / cell.name), place)
        again = Results(source.params, source.preset, folder).table(f"{cell.name}/bound.csv", BOUND_SCHEMA)
        recorded = source.table(bound_path(cell, seed), BOUND_SCHEMA)
        difference = abs(float(again[_column(cell)].iloc[0] - recorded[_column(cell)].iloc[0]))
        if not difference <= TOLERANCE:
            yield f"{source.folder / bound_path(cell, seed)}: {weights} gives another {_column(cell)}, by {difference:.2g}"
        if cell in grid.codec_cells(source.params):
            path = source.folder / compressed_path(cell, seed)
            try:
                images = Codec.of_file(weights).decompress(path.read_bytes(), str(path))
            except UserError as error:
                yield str(error)
            else:
                if not np.array_equal(images, load_images(data, "test")[: len(images)]):
                    yield f"{path}: decompresses to other images than the test images"


def _column(cell: Cell) -> str:
    return "pixelcnn_bits_per_dim" if cell.models_x else "vae_bits_per_dim"


def _facts(source: Results, records: Sequence[RunRecord], cell: Cell, seed: int, digest: str) -> dict[str, Any]:
    from agave.models import REGISTRY
    from agave.planning.network_costs import parameters

    manifest = json.loads((source.folder / "prepare/manifest.json").read_text(encoding="utf-8"))
    steps = {record.folder: record.options["training"] for record in records if "training" in record.options}
    trainings = [(stage, steps[f"{stage}/{name}/seed~{seed}"]) for stage, name in training_names(cell)]
    exact = REGISTRY[cell.system].bound == "exact"
    return {
        "cell": cell.name,
        "system": cell.system,
        "parameters": sum(parameters(source.params, cell).values()),
        "sha256": digest,
        "train_set": manifest["name"]["train"],
        "test_set": manifest["name"]["test"],
        "licence": manifest["licence"],
        "size": source.params.prepare.image_size,
        "trainings": ", ".join(f"{stage} {one['steps']} steps of {one['batch']} images" for stage, one in trainings),
        "seed": seed,
        "bits": source.table(bound_path(cell, seed), BOUND_SCHEMA)[_column(cell)].iloc[0],
        "number": "the exact likelihood" if exact else "the one-sample bound",
        "preset": source.preset,
    }
