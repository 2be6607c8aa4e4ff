"""The checks of `agave verify` that compare files, run records and parameters with each other. They only read."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agave.config import Params, Training
from agave.files import sha256
from agave.grid import parse_cell, training_of
from agave.models import options_of
from agave.provenance.checksums import CHECKSUMS, changed
from agave.provenance.code_digest import digest
from agave.provenance.git import committed
from agave.provenance.lineage import broken_links, input_paths, job_inputs, large_files, small_files
from agave.provenance.run_record import COMPUTE, RunRecord
from agave.results import Results
from agave.steps.records import MARKDOWN


@dataclass
class Check:
    """One part of the verdict page.

    Attributes:
        name: name of the check.
        summary: outcome in one line.
        problems: messages, each of which names a file or a job and what is wrong; empty if all is well.
    """

    name: str
    summary: str = ""
    problems: list[str] = field(default_factory=list)


def check_small_files(source: Results, listed: Mapping[str, str]) -> Check:
    """Compare the small results with records/SHA256SUMS.

    Args:
        source: the results.
        listed: the checksums, {path: SHA-256}.
    """
    check = Check("checksums")
    wanted = {*small_files(source.params), COMPUTE, MARKDOWN}
    check.problems += [f"{source.folder / path}: not in {CHECKSUMS}, as the grid asks for" for path in sorted(wanted - set(listed))]
    check.problems += [f"{source.folder / path}: in {CHECKSUMS}, but not of the grid" for path in sorted(set(listed) - wanted)]
    for path, how in changed(source.folder, listed):
        remedy = f"; {_remedy(source, path, listed[path])}" if how == "missing" else ""
        check.problems.append(f"{source.folder / path}: {how}{remedy}")
    check.summary = f"{len(listed)} small files as recorded"
    if check.problems:
        check.summary = f"{len(check.problems)} of {len(wanted)} files are not as recorded in {source.folder / CHECKSUMS}"
    return check


def _remedy(source: Results, path: str, recorded: str) -> str:
    """Return how to get a missing file back: from git, or with Snakemake, which also renews run record and checksums."""
    content = committed(source.folder / path)
    if content is not None and hashlib.sha256(content).hexdigest() == recorded:
        return f"bring it back with: git checkout HEAD -- {shlex.quote(str(source.folder / path))}"
    return f"make it with: snakemake all --cores all --config preset={source.preset}"


def check_large_files(source: Results, records: Sequence[RunRecord], small: Check) -> Check:
    """Compare the weights, histories and arrays that are here with the run records; `small` is the check of the small files."""
    large = large_files(records)
    here = {path: digest for path, digest in large.items() if (source.folder / path).exists()}
    problems = [f"{source.folder / path}: {how}, in the run record beside it" for path, how in changed(source.folder, here)]
    absent = (
        f", {len(large) - len(here)} not here (git does not keep them: the workflow makes them, or dvc pull)"
        if len(here) < len(large)
        else ""
    )
    return Check("checksums", f"{small.summary}; of the weights and arrays {len(here) - len(problems)} as recorded{absent}", problems)


def check_chain(source: Results, records: Sequence[RunRecord], listed: Mapping[str, str]) -> Check:
    """Check by hashes that every input of a job is the file that an earlier job wrote."""
    check = Check("chain")
    made = {path: (record, digest) for record in records for path, digest in record.files.items()}
    check.problems += [
        f"{record.path}: names another {path} than {CHECKSUMS}"
        for path, (record, digest) in made.items()
        if listed.get(path, digest) != digest
    ]
    for record, path in broken_links(records, source.params, listed):
        check.problems.append(f"{record.path}: not made from the {path} that is recorded beside it")
    for record in records:
        for path, recorded in input_paths(record):
            if path and not path.startswith("results/") and Path(path).is_file() and sha256(path) != recorded:
                check.problems.append(f"{record.path}: made from another {path} than the one here")
    inputs = sum(map(len, job_inputs(source.params).values()))
    check.summary = f"{len(records)} run records; each of {inputs} inputs is the output that an earlier step recorded"
    if check.problems:
        check.summary = f"{len(check.problems)} of {inputs} inputs are not what earlier steps recorded"
    return check


def check_settings(records: Sequence[RunRecord], params: Params) -> Check:
    """Compare the parameters and code digests in the run records with those of the checkout."""
    check = Check("settings", "made with the parameters and the code of this checkout")
    for record in records:
        if record.source not in (None, digest(record.step, record.system)):
            command = f"agave digest {record.step}" + (f" --system {record.system}" if record.system else "")
            check.problems.append(f"{record.path}: made with other code of the step {record.step} ({command})")
        for key, recorded, now in _different(record, params):
            check.problems.append(f"{record.path}: made with {key} {recorded}; params.yaml says {now}")
    unknown = [record for record in records if record.source is None]
    if check.problems:
        check.summary = "made with other parameters or code than those of this checkout"
    elif unknown:
        check.summary = f"made with the parameters of this checkout; {len(unknown)} records do not say with which code"
    return check


def _different(record: RunRecord, params: Params) -> Iterator[tuple[str, Any, Any]]:
    """List the options of a record that differ from the parameters, as (key, recorded, now), without those that change no result."""
    now = _options_now(record, params)
    bound_alone = record.step == "evaluate" and "iwae.csv" not in record.outputs
    for name in now.keys() & record.options.keys():
        recorded = record.options[name]
        if not isinstance(recorded, dict):
            if recorded != now[name]:
                yield name, recorded, now[name]
            continue
        for key, value in recorded.items():
            ignored = (key == "batch" and name != "training") or (bound_alone and key.startswith("iwae"))
            if not ignored and key in now[name] and now[name][key] != value:
                yield f"{name}.{key}", value, now[name][key]
            elif not ignored and key not in now[name] and (name, key) not in _BY_MACHINE:
                yield f"{name}.{key}", value, None


_BY_MACHINE = {("compute", "device"), ("prepare", "path")}


def _options_now(record: RunRecord, params: Params) -> dict[str, Any]:
    """Return the options that a step would record with these parameters, as far as they are known without running it."""
    blocks = ("prepare", "model", "evaluate", "sample", "codec", "figures", "grid")
    now: dict[str, Any] = {name: getattr(params, name).model_dump(mode="json") for name in blocks}
    now["prepare"].pop("path")  # names no place of another machine
    if "training" in record.options:
        vae = str(record.options["cell"]).startswith("vae")
        chosen: Training = params.pretrain.vae if vae else params.pretrain.pixelcnn_pp
        if record.step == "joint":
            cell = parse_cell(str(record.options["cell"]), params.prepare.image_size)
            chosen = training_of(cell, params)
            now["model"] |= options_of(cell.system, params)
        now |= {"training": chosen.model_dump(mode="json"), "image_size": params.prepare.image_size}
        now["compute"] = {"precision": params.compute.precision}
        if vae:
            now["kl_weight"] = params.pretrain.vae_kl_weight
    return now
