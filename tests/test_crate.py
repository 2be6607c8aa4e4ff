"""The crate for deposit: valid, with an unbroken chain of hashes from images to tables, the same bytes again, nothing half-written."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from fake_records import write_drawn, write_records
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from rocrate_validator import services
from rocrate_validator.models import Severity

from agave import config
from agave.config import Params
from agave.errors import UserError
from agave.review import crate
from agave.review.crate_entities import flat

METADATA = "ro-crate-metadata.json"
Entities = dict[str, dict[str, Any]]

# What a depositor has to say, and no run record knows: who ran it, who publishes it, where the source code is.
UNKNOWN = ("SHOULD have an agent", "SHOULD have a url", "organization SHOULD have a URL", "`publisher`", "id SHOULD be an absolute URI")


@pytest.fixture(scope="module")
def params(root: Path) -> Params:
    return config.load(root / "params.yaml", "tiny")


@pytest.fixture(scope="module")
def finished(root: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the preset `tiny` has run, as far as its records say, and the crate of it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in crate.COPIED:
        shutil.copy(root / name, folder)
    shutil.copytree(root / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["agave", "step", "--preset", "tiny"])
        results = write_records(params, "tiny")
        write_drawn(params, "tiny")
        crate.write_crate(params, "tiny", results, Path("crates/tiny"))
    return folder


@pytest.fixture
def checkout(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def entities(finished: Path) -> Entities:
    return read(finished / "crates/tiny")


def read(folder: Path) -> Entities:
    return {entity["@id"]: entity for entity in json.loads((folder / METADATA).read_text())["@graph"]}


def write(params: Params) -> int:
    return crate.write_crate(params, "tiny", Path("results/tiny"), Path("crates/tiny"))


def listed(value: Any) -> list[str]:
    """The identifiers that a property refers to."""
    return [item["@id"] for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]


@pytest.fixture(scope="module")
def cache(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the validator would fetch: the two JSON-LD contexts, put into its cache, because tests have no network.

    The validator brings its profiles but no context, and the one that the package rocrate brings is of RO-Crate 1.3, where some
    terms have other IRIs. So tests/crate_contexts.json holds the terms that our crates use, as RO-Crate 1.1 and Workflow Run 0.5
    define them. A crate that uses another term fails here until it is looked up there.
    """
    contexts = json.loads((root / "tests/crate_contexts.json").read_text())

    class Stored(HTTPAdapter):
        def send(self, request: PreparedRequest, *_: Any, **__: Any) -> Response:
            url = str(request.url)
            headers = {"Content-Type": "application/ld+json"}
            body = io.BytesIO(json.dumps(contexts[url]).encode())
            return self.build_response(request, urllib3.HTTPResponse(body, headers, 200, preload_content=False, request_url=url))

    path = tmp_path_factory.mktemp("cache") / "http"
    with CachedSession(str(path), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", Stored())
        for url in contexts:
            assert session.get(url).ok
    return path


def problems(folder: Path, profile: str, severity: Severity, cache: Path) -> Iterator[str]:
    settings = services.ValidationSettings(
        rocrate_uri=str(folder), profile_identifier=profile, requirement_severity=severity, offline=True, cache_path=cache
    )
    for issue in services.validate(settings).get_issues():
        yield f"{issue.severity.name} {issue.message} ({issue.violatingEntity})"


@pytest.mark.integration
@pytest.mark.parametrize("profile", ["workflow-run-crate-0.5", "provenance-run-crate-0.5"])
def test_the_validator_accepts_it(profile: str, finished: Path, cache: Path) -> None:
    found = list(problems(finished / "crates/tiny", profile, Severity.RECOMMENDED, cache))
    assert [line for line in found if not any(part in line for part in UNKNOWN)] == []
    assert all(line.startswith("RECOMMENDED") for line in found)


@pytest.mark.integration
def test_the_validator_sees_a_fault(checkout: Path, cache: Path) -> None:
    path = checkout / "crates/tiny" / METADATA
    path.write_text(path.read_text().replace('"instrument"', '"sha256"'))
    assert any("instrument" in line for line in problems(path.parent, "workflow-run-crate-0.5", Severity.REQUIRED, cache))


def test_every_file_is_listed_with_its_hash(finished: Path, entities: Entities) -> None:
    folder = finished / "crates/tiny"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file() and path.name != METADATA}
    assert set(files) == set(listed(entities["./"]["hasPart"]))
    for name, path in files.items():
        assert entities[name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not [name for name in files if name.endswith((".npy", ".safetensors"))]


def test_the_chain_from_tables_to_images_is_unbroken(entities: Entities) -> None:
    actions = {key: entity for key, entity in entities.items() if entity["@type"] == "CreateAction" and key != "#run"}
    made_by = {file: key for key, action in actions.items() for file in listed(action["result"])}
    for action in actions.values():
        for name in listed(action.get("object", [])):
            if entities[name]["@type"] != "PropertyValue":
                assert len(entities[name]["sha256"]) == 64
                assert name in made_by or name == "claims.yaml" or name.endswith(".json")  # run records, which no action lists

    def steps(file: str) -> Iterator[str]:
        if action := made_by.get(file):
            yield action.split("/")[1]
            for name in listed(actions[action].get("object", [])):
                yield from steps(name)

    table = {"tables", "codec", "formats", "trainings", "evaluate", "joint", "pretrain", "prepare"}  # the step has a table of files too
    assert set(steps("results/tiny/tables/table1.csv")) == table
    assert set(steps("results/tiny/trainings/history.csv")) == {"trainings", "joint", "pretrain", "prepare"}


def test_the_hashes_are_those_of_the_records(finished: Path, entities: Entities) -> None:
    for path in (finished / "results/tiny/evaluate").rglob("*.json"):
        record = json.loads(path.read_text())
        action = entities[f"#run/{path.relative_to(finished / 'results/tiny').with_suffix('').as_posix()}"]
        given = {entities[name].get("sha256") for name in listed(action["object"])}
        assert {value["sha256"] for value in record["inputs"].values()} <= given
        assert action["description"] == "agave step --preset tiny"
        options = {entities[name]["name"]: entities[name]["value"] for name in listed(action["object"]) if name.startswith("#option")}
        assert options == dict(flat(record["options"]))


def test_all_references_are_there_and_no_path_leads_elsewhere(finished: Path, entities: Entities) -> None:
    text = (finished / "crates/tiny" / METADATA).read_text()
    assert str(finished) not in text and str(Path.home()) not in text
    outside = ("http://", "https://")
    for entity in entities.values():
        for value in entity.values():
            for name in listed(value):
                assert name in entities or name.startswith(outside), name
    assert not [key for key in entities if key.startswith("/") or ".." in key]


def test_the_same_results_give_the_same_bytes(checkout: Path, params: Params) -> None:
    folder = checkout / "crates/tiny"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write(params)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_a_changed_result_is_refused_and_the_old_crate_stays(checkout: Path, params: Params) -> None:
    before = (checkout / "crates/tiny" / METADATA).read_bytes()
    (checkout / "results/tiny/tables/table1.csv").write_text("better")
    with pytest.raises(UserError, match=r"table1.csv: is not the file that its run record names; .*snakemake .*table1.csv .*--force"):
        write(params)
    assert (checkout / "crates/tiny" / METADATA).read_bytes() == before


def test_a_job_that_read_other_files_is_refused(checkout: Path, params: Params) -> None:
    path = next((checkout / "results/tiny/sample").rglob("measures.json"))
    record = json.loads(path.read_text())
    next(given for name, given in record["inputs"].items() if name.endswith("model.safetensors"))["sha256"] = 64 * "0"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"measures.npz: was made from another joint/.*model.safetensors than the one at hand; .*--force"):
        write(params)


def test_changed_claims_are_refused(checkout: Path, params: Params) -> None:
    (checkout / "claims.yaml").write_text("[]")
    with pytest.raises(UserError, match=r"claims.yaml: has changed since claims/run was made from it"):
        write(params)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("claims/run.json", r"claims/run.json: missing; make it with: snakemake .*results/tiny/claims/run.json"),
        ("trainings/runs.jsonl", r"runs.jsonl: missing; make it with: snakemake .*results/tiny/trainings/runs.jsonl"),
        ("figures/figure4.png", r"figure4.png: missing; make it again with: snakemake"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(missing: str, message: str, checkout: Path, params: Params) -> None:
    (checkout / "results/tiny" / missing).unlink()
    with pytest.raises(UserError, match=message):
        write(params)


def test_trainings_that_were_not_gathered_are_named(checkout: Path, params: Params) -> None:
    path = checkout / "results/tiny/trainings/runs.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match=r"holds no line for pretrain/.*snakemake trainings"):
        write(params)


def test_it_needs_a_checkout(checkout: Path, params: Params) -> None:
    (checkout / "LICENSE").unlink()
    with pytest.raises(UserError, match="LICENSE: missing; accepted: the folder of a checkout"):
        write(params)


def test_only_a_crate_is_overwritten(checkout: Path, params: Params) -> None:
    note = checkout / "crates/tiny/note.txt"
    note.write_text("mine")
    with pytest.raises(UserError, match=r"note.txt is not part of the crate there and would be lost"):
        write(params)
    (note.parent / METADATA).unlink()
    with pytest.raises(UserError, match="holds something else"):
        write(params)
    assert note.read_text() == "mine"
