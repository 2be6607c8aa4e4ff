"""The entities of a Provenance Run Crate: files, software, and one action for each job, from the run records of a preset.

Source: https://w3id.org/ro/wfrun/provenance/0.5 and the profiles it builds on (RO-Crate 1.1).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rocrate.rocrate import ROCrate

from agave.files import sha256
from agave.provenance.lineage import input_paths
from agave.provenance.run_record import Cost, RunRecord
from agave.results import TRAINING_RECORDS
from agave.steps import STEPS

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
WORKFLOW_PROFILE = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
RECORDED = tuple(step for step in STEPS if step != "report")  # the pages of the report are not results
FORMATS = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".rst": "text/x-rst",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
    ".cff": "application/yaml",
    ".npy": "application/octet-stream",
    ".npz": "application/zip",
    ".safetensors": "application/octet-stream",
}
USAGE = {  # quantity of a run record: its unit, as UN/CEFACT code and in words
    "wall_seconds": ("SEC", "seconds"),
    "processor_seconds": ("SEC", "seconds"),
    "peak_memory_mib": ("E63", "MiB"),
}
PARAMETERS = {  # of the workflow: identifier, whether it goes in or comes out, what it is
    "params": ("input", "File", "every number of the experiment, by preset"),
    "preset": ("input", "Text", "which preset of params.yaml runs"),
    "claims": ("input", "File", "the claims of the paper and their tests"),
    "images": ("input", "Text", "path or hash of images given by the user in place of those that the preset names"),
    "tables": ("output", "File", "the bounds of all models and Table 1"),
    "figures": ("output", "File", "the figures, and the data behind each"),
    "verdicts": ("output", "File", "what the results say about each claim"),
}
RESULTS_OF = {"tables": "tables", "figures": "figures", "claims": "verdicts"}


class Entities:
    """Add entities to a crate, each identifier once.

    Attributes:
        crate: the crate.
        preset: the preset whose results it holds.
        url: address of the source code, if it is known.
        digests: {path: SHA-256} of the files in the crate.
    """

    def __init__(self, crate: ROCrate, preset: str, url: str | None) -> None:
        self.crate = crate
        self.preset = preset
        self.url = url
        self.digests: dict[str, str] = {}

    def add(self, identifier: str, type_: str | list[str], **properties: Any) -> dict[str, str]:
        """Add a contextual entity unless it is there; returns a reference to it."""
        if self.crate.dereference(identifier) is None:
            given = {key: single(value) for key, value in properties.items() if value is not None and value != []}
            self.crate.add_jsonld({"@id": identifier, "@type": type_, **given})
        return {"@id": identifier}

    def file(self, path: str, source: Path) -> None:
        """Add a file with its size and hash; the Snakefile is the workflow."""
        properties = {"name": path, "contentSize": str(source.stat().st_size), "sha256": sha256(source)}
        properties["encodingFormat"] = FORMATS.get(Path(path).suffix, "text/plain")
        self.digests[path] = properties["sha256"]
        if path == "Snakefile":
            types = {"@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"], "conformsTo": {"@id": WORKFLOW_PROFILE}}
            self.crate.add_workflow(source, path, properties=properties | types, main=True, lang="snakemake")
        else:
            self.crate.add_file(source, path, properties=properties)

    def reference(self, path: str, digest: str) -> dict[str, str]:
        """Return the entity of a file, in the crate or not; images and weights stay outside and are known by path and hash."""
        if path in self.digests:
            return {"@id": path}
        outside = "not in this crate: it is large, or was deleted when its content had been used; known by path and hash"
        kind = FORMATS.get(Path(path).suffix)
        identifier = f"#{path}" if path else f"#sha256:{digest}"
        name = path or "file outside of the checkout"
        return self.add(identifier, "CreativeWork", name=name, description=outside, sha256=digest, encodingFormat=kind)

    def value(self, prefix: str, name: str, value: Any, **properties: Any) -> dict[str, str]:
        """Return a named value, shared by all actions that have it."""
        plain = value if isinstance(value, (str, bool, int, float)) else json.dumps(value)
        identifier = "#" + quote(f"{prefix}:{name}={value if isinstance(value, str) else json.dumps(value)}", safe="/:=~@+,")
        return self.add(identifier, "PropertyValue", name=name, value=plain, **properties)

    def package(self, name: str, version: str) -> dict[str, str]:
        """Return a piece of software in one version."""
        url = self.url if name == "agave" else None
        return self.add(f"#{name}-{version}", "SoftwareApplication", name=name, softwareVersion=version, url=url)


def single(value: Any) -> Any:
    """Return the element of a list of one, and other lists as they are, which is how RO-Crate writes them."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List nested options as pairs, ("vae.depth", 2)."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def time(moment: datetime) -> str:
    """Return a moment in ISO 8601 with milliseconds and offset."""
    return moment.isoformat(timespec="milliseconds")


def add_runs(entities: Entities, jobs: list[RunRecord]) -> None:
    """Add tools, steps and one action per job, and the run of the whole workflow that they make up.

    Args:
        entities: holds all files already.
        jobs: all jobs of the preset, in the order in which they began.
    """
    crate, workflow = entities.crate, entities.crate.mainEntity
    tools = {step: _tool(entities, step, [job for job in jobs if job.step == step]) for step in RECORDED}
    steps = [
        entities.add(f"#step-{step}", "HowToStep", name=step, position=str(number), workExample=tools[step])
        for number, step in enumerate(RECORDED, start=1)
    ]
    workflow["hasPart"], workflow["step"] = list(tools.values()), steps
    actions = [_action(entities, job, tools[job.step]) for job in jobs]
    controls = [
        entities.add(
            f"#control/{_name(job)}", "ControlAction", name=f"job {_name(job)}", instrument={"@id": f"#step-{job.step}"}, object=action
        )
        for job, action in zip(jobs, actions, strict=True)
    ]
    whole = _whole(entities, jobs)
    engine = entities.package("snakemake", jobs[-1].packages["snakemake"])
    workflow.lang["version"] = jobs[-1].packages["snakemake"]
    workflow["version"] = jobs[-1].packages["agave"]
    times = {"startTime": time(jobs[0].started), "endTime": time(max(job.ended for job in jobs))}
    name = f"Snakemake's run of the preset {entities.preset}"
    entities.add("#engine", "OrganizeAction", name=name, instrument=engine, object=controls, result=whole, **times)
    crate.root_dataset["mentions"] = [whole, *actions, {"@id": "#engine"}]


def _tool(entities: Entities, step: str, jobs: list[RunRecord]) -> dict[str, str]:
    used = sorted({(name, version) for job in jobs for name, version in _software(job)})
    packages = [entities.package(name, version) for name, version in used]
    versions = ", ".join(version for name, version in used if name == "agave")
    text = f"The step {step}; `agave {step} --help` explains its options."
    properties = {"description": text, "softwareVersion": versions, "softwareRequirements": packages, "url": entities.url}
    return entities.add(f"#agave-{step}", "SoftwareApplication", name=f"agave {step}", **properties)


def _software(job: RunRecord) -> Iterable[tuple[str, str]]:
    return [*job.packages.items(), ("python", job.machine.python)]


def _name(job: RunRecord) -> str:
    """Return the path of its record without the ending."""
    return job.path.removesuffix(".json")


def _inputs(job: RunRecord, preset: str) -> list[tuple[str, str]]:
    """List its inputs as (path or "", SHA-256), under results/<preset>/ if they lay in a folder of results of another name."""
    return [(re.sub(r"^results/[^/]+/", f"results/{preset}/", path), digest) for path, digest in input_paths(job)]


def _action(entities: Entities, job: RunRecord, tool: dict[str, str]) -> dict[str, str]:
    """Add one job: its input files and options, output files, time, machine, cost and commit."""
    root = f"results/{entities.preset}/"
    inputs = [entities.reference(path, digest) for path, digest in _inputs(job, entities.preset)]
    options = [entities.value(f"option-{job.step}", name, value) for name, value in flat(job.options)]
    outputs = [entities.reference(root + path, digest) for path, digest in job.files.items()]
    facts = {
        "git commit": job.git.commit,
        "git checkout has uncommitted changes": job.git.dirty,
        "device": job.device,
        "GPU": job.gpu,
        "threads": job.threads,
        "kernels": job.kernels,
        "vector instructions": job.cpu_capability,
        "digest of the source of the step": job.source,
        "system": job.machine.system,
        "processor": job.machine.processor,
        "CPU": job.machine.cpu,
    }
    known = [entities.value("fact", name, value) for name, value in facts.items() if value is not None]
    versions = [entities.value("package", name, version) for name, version in sorted(_software(job))]
    record = f"{root}{job.path}"
    return entities.add(
        f"#run/{_name(job)}",
        "CreateAction",
        name=f"{job.step}: {_name(job)}",
        description=shlex.join(job.command),
        instrument=tool,
        object=[*inputs, *options],
        result=outputs,
        startTime=time(job.started),
        endTime=time(job.ended),
        actionStatus="http://schema.org/CompletedActionStatus",
        resourceUsage=list(_usage(entities, job)),
        additionalProperty=[*known, *versions],
        subjectOf={"@id": record if record in entities.digests else root + TRAINING_RECORDS},
    )


def _usage(entities: Entities, job: RunRecord) -> Iterator[dict[str, str]]:
    """Yield the cost of a job, and that of each of its parts, which were scattered over other jobs."""
    costs: dict[str, Cost] = {"": job.cost} | {f"{name}: ": cost for name, cost in job.parts.items()}
    for part, cost in costs.items():
        for name, (code, unit) in USAGE.items():
            yield entities.value("usage", part + name, getattr(cost, name), propertyID=name, unitCode=code, unitText=unit)


def _whole(entities: Entities, jobs: list[RunRecord]) -> dict[str, str]:
    """Add the run of the workflow: its inputs and outputs, from its first job to its last."""
    crate, root = entities.crate, f"results/{entities.preset}/"
    preset = entities.value("parameter", "preset", entities.preset)
    given = [("params", {"@id": "params.yaml"}), ("preset", preset), ("claims", {"@id": "claims.yaml"})]
    for path, digest in [file for job in jobs if job.step == "prepare" for file in _inputs(job, entities.preset)]:
        given.append(("images", entities.value("parameter", "images", path or f"sha256:{digest}")))
    for name, entity in given:
        _example(entities, crate.dereference(entity["@id"]), name)
    made = []
    for job in jobs:
        if job.step in RESULTS_OF:
            for path in job.files:
                made.append({"@id": root + path})
                _example(entities, crate.dereference(root + path), RESULTS_OF[job.step])
    return entities.add(
        "#run",
        "CreateAction",
        name=f"Run of the preset {entities.preset}: {len(jobs)} jobs",
        description=f"snakemake all --config preset={entities.preset}: all its jobs, which may have run in several sittings.",
        instrument={"@id": "Snakefile"},
        object=[entity for _, entity in given],
        result=sorted(made, key=lambda entity: entity["@id"]),
        startTime=time(jobs[0].started),
        endTime=time(max(job.ended for job in jobs)),
        actionStatus="http://schema.org/CompletedActionStatus",
    )


def _example(entities: Entities, entity: Any, name: str) -> None:
    """Say that a file or value is what a parameter of the workflow stands for in this run."""
    direction, kind, text = PARAMETERS[name]
    parameter = f"#parameter-{name}"
    if entities.crate.dereference(parameter) is None:
        profile = {"@id": "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"}
        entities.add(parameter, "FormalParameter", name=name, description=text, additionalType=kind, conformsTo=profile)
        entities.crate.mainEntity.append_to(direction, {"@id": parameter}, compact=True)
    entity["exampleOfWork"] = {"@id": parameter}
    entities.crate.dereference(parameter).append_to("workExample", {"@id": entity.id}, compact=True)
