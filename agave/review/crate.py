"""Make a folder for deposit: the workflow, the small results of a preset, and a Workflow Run RO-Crate that describes how each was made."""

from __future__ import annotations

import json
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from agave.config import Params
from agave.errors import UserError
from agave.files import sha256
from agave.page.files import PAGE, RECORD
from agave.provenance.checksums import CHECKSUMS, changed
from agave.provenance.lineage import RECORDS_RECORD, broken_links, input_paths, read_all, small_files
from agave.provenance.run_record import COMPUTE, RunRecord
from agave.results import Results
from agave.steps.records import MARKDOWN

METADATA = "ro-crate-metadata.json"
MADE_BY = "Written by `agave crate` from the run records."
COPIED = ("Snakefile", "params.yaml", "claims.yaml", "dvc.yaml", "LICENSE", "README.md", "CITATION.cff")


def write_crate(params: Params, preset: str, results: Path, output: Path, checkout: Path = Path()) -> int:
    """Write the crate of a preset; the same results give the same bytes.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.
        output: folder to write; a crate that this function wrote there before is replaced as a whole.
        checkout: folder of the Snakefile.

    Returns:
        Number of jobs that the crate describes.

    Raises:
        UserError: a run record or file is missing or is not the one that the others refer to, or `output` holds something else.
    """
    _check_output(output)
    source = Results(params, preset, results)
    small = [*small_files(params), COMPUTE, MARKDOWN, CHECKSUMS, RECORDS_RECORD, PAGE, RECORD]
    records = sorted(read_all(source), key=lambda record: (record.started, record.path))
    _check_results(source, records, small)
    files = _files(checkout) | {f"results/{preset}/{name}": results / name for name in small}
    try:
        _write(_describe(preset, records, files, checkout), output)
    except OSError as error:
        raise UserError(f"{output}: not written ({error.strerror or error}); accepted: a folder that can be written to") from error
    return len(records)


def _check_results(source: Results, records: list[RunRecord], small: list[str]) -> None:
    """Raise UserError unless every small file is the one that its record names, and every job read what the others wrote."""
    recorded = {path: digest for record in records for path, digest in record.files.items()}
    for path, how in changed(source.folder, {path: recorded[path] for path in small if path in recorded}):
        raise _outdated(source, path, "missing" if how == "missing" else "is not the file that its run record names")
    known = {path: sha256(source.folder / path) for path in small}
    for record, path in broken_links(records, source.params, known):
        raise _outdated(source, next(iter(record.files)), f"was made from another {path} than the one at hand")


def _outdated(source: Results, path: str, problem: str) -> UserError:
    """Return an error; Snakemake goes by time stamps and would take the file for finished, hence --force."""
    return UserError(f"{source.folder / path}: {problem}; make it again with: {source.command(path)} --force")


def _write(crate: Any, output: Path) -> None:
    """Write the crate beside its place first, so that what is there is whole."""
    parent = output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        crate.write(new)
        if output.exists():
            output.rename(old)
        try:
            new.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise


def _check_output(output: Path) -> None:
    """Raise UserError unless `output` is free, or holds an earlier crate to which no file was added."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    accepted = "accepted: a new folder, or a crate that `agave crate` wrote"
    try:
        entities = {entity["@id"]: entity for entity in json.loads((output / METADATA).read_text(encoding="utf-8"))["@graph"]}
        made_here = entities[METADATA]["description"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        made_here = False
    if not made_here:
        raise UserError(f"--output {output}: holds something else; {accepted}")
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if not path.is_dir() and name not in entities:
            raise UserError(f"--output {output}: {name} is not part of the crate there and would be lost; {accepted}")


def _files(checkout: Path) -> dict[str, Path]:
    """Return the files of the checkout that go into the crate, as {path in the crate: path here}."""
    files = {name: checkout / name for name in COPIED}
    for path in sorted((checkout / "workflow").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files[path.relative_to(checkout).as_posix()] = path
    for name, path in files.items():
        if not path.is_file():
            raise UserError(f"{path}: missing; accepted: the folder of a checkout, where {name} lies, as working directory")
    return files


def _describe(preset: str, records: list[RunRecord], files: dict[str, Path], checkout: Path) -> Any:
    """Return the crate: its files, its description and authors, and all jobs."""
    from rocrate.rocrate import ROCrate

    from agave.review.crate_entities import CONTEXT, Entities, add_runs

    citation = yaml.safe_load((checkout / "CITATION.cff").read_text(encoding="utf-8"))
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(CONTEXT)
    crate.metadata["description"] = MADE_BY
    entities = Entities(crate, preset, citation.get("repository-code"))
    for path, source in files.items():
        entities.file(path, source)
    _check_checkout(records, entities.digests)
    _describe_root(entities, citation, max(record.ended for record in records))
    _describe_workflow(entities, citation)
    add_runs(entities, records)
    return crate


def _describe_root(entities: Any, citation: dict[str, Any], published: datetime) -> None:
    """Describe the crate as a whole: title, date, licence, authors and profiles."""
    from agave.review.crate_entities import PROFILES, WORKFLOW_PROFILE, single, time

    preset, root = entities.preset, entities.crate.root_dataset
    root["name"] = f"{citation['title']}: results of the preset {preset}"
    root["description"] = (
        f"The Snakemake workflow and what it computed with the preset {preset}: bounds, samples, tables, figures and verdicts, each with "
        "the command, parameters, inputs, versions, times and git commit that made it. Images and weights are not included; their "
        "paths and SHA-256 are. The source of the package agave is that of the git commits named in the actions."
    )
    root["datePublished"] = time(published)
    root["keywords"] = ["generative model", "variational autoencoder", "PixelCNN++", "reproducibility"]
    licence = "https://spdx.org/licenses/" + citation["license"]
    root["license"] = entities.add(licence, "CreativeWork", name=citation["license"], description="The text is in LICENSE.")
    names = [author.get("name") or f"{author['given-names']} {author['family-names']}" for author in citation["authors"]]
    authors = [
        entities.add(f"#author-{number}", "Organization" if "name" in author else "Person", name=name)
        for number, (author, name) in enumerate(zip(citation["authors"], names, strict=True), start=1)
    ]
    root["author"] = single(authors)
    for identifier, (name, version) in PROFILES.items():
        entities.add(identifier, "CreativeWork", name=name, version=version)
    entities.add(WORKFLOW_PROFILE, "CreativeWork", name="Bioschemas ComputationalWorkflow", version="1.0-RELEASE")
    root["conformsTo"] = [{"@id": identifier} for identifier in PROFILES]
    for name, path in (("README.md", "./"), ("CITATION.cff", "./"), ("LICENSE", licence)):
        entities.crate.dereference(name)["about"] = {"@id": path}


def _describe_workflow(entities: Any, citation: dict[str, Any]) -> None:
    """Describe the Snakefile, with the licence and authors of the whole."""
    workflow, root = entities.crate.mainEntity, entities.crate.root_dataset
    workflow["name"] = citation["title"]
    workflow["license"], workflow["creator"] = root["license"], root["author"]
    if entities.url:
        workflow["url"] = entities.url


def _check_checkout(records: list[RunRecord], digests: dict[str, str]) -> None:
    """Raise UserError unless the files of the checkout that the jobs read, such as claims.yaml, are those that go into the crate."""
    for record in records:
        for path, digest in input_paths(record):
            if not path.startswith("results/") and digests.get(path, digest) != digest:
                name = record.path.removesuffix(".json")
                raise UserError(f"{path}: has changed since {name} was made from it; make that again with: snakemake all --cores all")
