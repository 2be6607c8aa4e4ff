"""The jobs of a preset: the files that each reads, their run records, and checks that these fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agave import figures, grid, tables
from agave.config import Params
from agave.errors import UserError
from agave.page import files as page
from agave.provenance.run_record import RunRecord
from agave.results import (
    CLAIMS,
    CLAIMS_PAGE,
    HISTORIES,
    IMAGE_FORMATS,
    POWER,
    TRAINING_RECORDS,
    Results,
    bound_path,
    claim_inputs,
    codec_arrays_path,
    codec_path,
    compressed_path,
    growth_path,
    history_paths,
    iwae_arrays_path,
    iwae_path,
    measures_path,
    per_image_path,
    shown_path,
    training_names,
)

TRAIN_IMAGES, TEST_IMAGES = "prepare/train.npy", "prepare/test.npy"
WEIGHTS = "model.safetensors"
_LARGE = ("prepare/", "pretrain/", "joint/", "drawn/")
RECORDS_RECORD = "records/run.json"


def job_inputs(params: Params) -> dict[str, list[str]]:
    """Return the files that each job of a preset reads from earlier jobs.

    Args:
        params: the parameters of the preset.

    Returns:
        {run record: files}, all relative to results/<preset>/, in data-flow order. Parts of a bound, which the workflow deletes
        when they are joined, are left out.
    """
    seeds = params.grid.seeds
    jobs: dict[str, list[str]] = {"prepare/run.json": []}
    for (step, name, seed), path in history_paths(params).items():
        read = [TRAIN_IMAGES]
        if step == "joint":
            cell = grid.parse_cell(name, params.prepare.image_size, params.pretrain.vae_kl_weight)
            read += [f"{stage}/{name}/seed~{seed}/{WEIGHTS}" for stage, name in training_names(cell) if stage == "pretrain"]
        jobs[str(Path(path).with_name("run.json"))] = read
    jobs["trainings/run.json"] = list(history_paths(params).values())
    measured = [(path_of, cell, seed) for path_of in (bound_path, measures_path) for cell in grid.all_cells(params) for seed in seeds]
    measured += [(iwae_path, cell, seed) for cell in grid.sampled_cells(params) for seed in seeds]
    for path_of, cell, seed in measured:
        model = f"joint/{cell.name}/seed~{seed}/{WEIGHTS}"
        jobs[str(Path(path_of(cell, seed)).with_suffix(".json"))] = [TEST_IMAGES, model]
    for cell in grid.codec_cells(params):
        read = [TEST_IMAGES, f"joint/{cell.name}/seed~{seeds[0]}/{WEIGHTS}", per_image_path(cell, seeds[0])]
        jobs[str(Path(codec_path(cell, seeds[0])).with_suffix(".json"))] = read
    jobs["formats/run.json"] = [TEST_IMAGES]
    jobs["tables/run.json"] = tables.inputs(params)
    jobs |= {f"figures/figure{name}.json": figures.inputs(name, params) for name in figures.NAMES}
    jobs["claims/run.json"] = claim_inputs(params)
    return jobs | {RECORDS_RECORD: _small_files(params, list(jobs)), page.RECORD: page.inputs(params)}


def small_files(params: Params) -> list[str]:
    """Return the results of a preset that are in git, without the folder records/, relative to results/<preset>/, sorted."""
    return job_inputs(params)[RECORDS_RECORD]


def record_files(params: Params) -> list[str]:
    """Return the files in git that hold run records, relative to results/<preset>/, in data-flow order."""
    return list(dict.fromkeys(TRAINING_RECORDS if _of_training(path) else path for path in job_inputs(params)))


def read_all(results: Results, *, but: Sequence[str] = ()) -> list[RunRecord]:
    """Read the run record of every job of a preset, in data-flow order.

    Args:
        results: results of the preset.
        but: run records to leave out because their jobs have not ended.

    Raises:
        UserError: one is missing or damaged; the message names the command that makes it.
    """
    paths = [path for path in job_inputs(results.params) if path not in but]
    trained = {record.path: record for record in RunRecord.read_lines(results, TRAINING_RECORDS)}
    for path in filter(_of_training, paths):
        if path not in trained:
            command = f"snakemake trainings --cores all --config preset={results.preset}"
            raise UserError(f"{results.folder / TRAINING_RECORDS}: holds no line for {path}; gather the run records with: {command}")
    return [trained[path] if _of_training(path) else RunRecord.read(results, path) for path in paths]


def large_files(records: Sequence[RunRecord]) -> dict[str, str]:
    """Return the weights, histories and arrays, which are not in git, as {path relative to results/<preset>/: SHA-256}."""
    made = (file for record in records for file in record.files.items())
    return {path: digest for path, digest in made if path.startswith(_LARGE) and not path.endswith(".json")}


def input_paths(record: RunRecord) -> Iterator[tuple[str, str]]:
    """List the inputs of a job as (path in the checkout, SHA-256); the path is empty for a file that lay outside of it."""
    for given in record.inputs.values():
        path = Path(given.file)
        outside = given.file.startswith("sha256:") or path.is_absolute() or ".." in path.parts
        yield "" if outside else path.as_posix(), given.sha256


def broken_links(records: Sequence[RunRecord], params: Params, known: Mapping[str, str]) -> Iterator[tuple[RunRecord, str]]:
    """Find inputs that are not the files which earlier jobs wrote.

    Args:
        records: records of all jobs.
        params: the parameters of the preset.
        known: {path relative to results/<preset>/: SHA-256} of files whose hash is known from elsewhere, such as run records.

    Yields:
        (record, path): the job lacks this input, or read another file under its name.
    """
    made = {**known, **{path: digest for record in records for path, digest in record.files.items()}}
    wanted = job_inputs(params)
    for record in records:
        named = {re.sub(r"^results/[^/]+/", "", path): digest for path, digest in input_paths(record)}
        unnamed = {digest for path, digest in input_paths(record) if not path}
        for path in dict.fromkeys([*wanted.get(record.path, []), *named]):
            required = path in wanted.get(record.path, [])
            if path in named:
                if made.get(path, named[path]) != named[path] or (required and path not in made):
                    yield record, path
            elif required and made.get(path) not in unnamed:
                yield record, path


def _small_files(params: Params, jobs: Sequence[str]) -> list[str]:
    seeds = params.grid.seeds
    found = {"prepare/manifest.json", HISTORIES, TRAINING_RECORDS, IMAGE_FORMATS, CLAIMS, CLAIMS_PAGE, POWER}
    every = (bound_path, per_image_path, measures_path, shown_path)
    found |= {path(cell, seed) for cell in grid.all_cells(params) for seed in seeds for path in every}
    found |= {
        path(cell, seed) for cell in grid.sampled_cells(params) for seed in seeds for path in (iwae_path, growth_path, iwae_arrays_path)
    }
    found |= {path(cell, seeds[0]) for cell in grid.codec_cells(params) for path in (codec_path, codec_arrays_path, compressed_path)}
    found |= {f"tables/{name}" for name in tables.FILES} | {path for name in figures.NAMES for path in figures.outputs(name)}
    return sorted(found | {path for path in jobs if not _of_training(path)})


def _of_training(path: str) -> bool:
    return path.startswith(("pretrain/", "joint/"))
