"""The reviewer's check: what it says of results in order, and that each kind of tampering is found and named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fake_records import write_records
from fake_results import write_results
from PIL import Image
from test_workflow import GRID, ROOT, check_out, jobs, snakemake

from agave.cli import main
from agave.config import Params, load
from agave.provenance.checksums import CHECKSUMS, read_checksums
from agave.provenance.lineage import RECORDS_RECORD, job_inputs, read_all
from agave.provenance.run_record import COMPUTE, RunRecord
from agave.results import BOUNDS, Results
from agave.review import checks, redraw, verify
from agave.steps import STEPS, records

FOLDER = Path("results/tiny")


def agave(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--preset", "tiny"])


@pytest.fixture(autouse=True)
def _models_in_git_are_computed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds; tests/test_codec_step.py checks the check."""
    monkeypatch.setattr(verify, "check_pretrained", lambda: checks.Check("computed", "not in this test"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the results of the preset `tiny`; weights and arrays are a line of text each."""
    root = check_out(tmp_path_factory.mktemp("verify") / "checkout")
    (root / "pretrained").mkdir()
    (root / "pretrained/pixelcnn_pp").symlink_to(ROOT / "pretrained/pixelcnn_pp")  # the others take most of a minute
    params = load(root / "params.yaml", "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_results(params, FOLDER)
        write_records(params, "tiny")
        for command in (["tables"], ["figures"], ["claims"], ["records"], ["page"]):
            done = agave(*command, "--results", str(FOLDER))
            assert done.exit_code == 0, done.output
    return root


@pytest.fixture(scope="module")
def finished(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a clone of the git repository has it: no weights, no arrays."""
    root = shutil.copytree(whole, tmp_path_factory.mktemp("clone") / "checkout", symlinks=True)
    for step in ("pretrain", "joint", "drawn"):
        shutil.rmtree(root / FOLDER / step)
    for name in ("train.npy", "test.npy"):
        (root / FOLDER / "prepare" / name).unlink()
    return root


@pytest.fixture
def checkout(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change, as the working directory."""
    copy = shutil.copytree(finished, tmp_path / "checkout", symlinks=True)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def params(checkout: Path) -> Params:
    return load("params.yaml", "tiny")


def record_again(*changed: str) -> None:
    """Tamper with the checksums as well."""
    path = FOLDER / CHECKSUMS
    lines = [line.split("  ") for line in path.read_text().splitlines()]
    hashes = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() if name in changed else old for old, name in lines}
    path.write_text("".join(f"{value}  {name}\n" for name, value in hashes.items()))


def state(folder: Path = Path()) -> dict[Path, tuple[int, bytes]]:
    """Time stamp and content of every file."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_results_in_order(checkout: Path) -> None:
    before = state()
    done = agave("verify")
    assert done.exit_code == 0, done.output
    assert "nothing to be done for tables figures claims records page" in done.output
    assert f"{len(redraw.drawn())} of {len(redraw.drawn())} files the same bytes" in done.output
    assert "0 as recorded, " in done.output and "not here (git does not keep them: the workflow makes them, or dvc pull)" in done.output
    assert "C1   not testable at this scale" in done.output and "VERDICT: all is well" in done.output
    assert state() == before


def test_a_deleted_figure_is_missing_and_the_command_that_brings_it_back_is_named(checkout: Path) -> None:
    figure = FOLDER / "figures/figure4.png"
    content = figure.read_bytes()
    figure.unlink()
    done = agave("verify")
    assert done.exit_code == 1
    assert f"{figure}: missing; make it with: snakemake all --cores all --config preset=tiny" in done.output
    assert not figure.exists()
    figure.write_bytes(content)
    environment = os.environ | {f"GIT_{role}_{name}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for name in ("NAME", "EMAIL")}
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "results"]):
        subprocess.run(["git", *command], env=environment, check=True)
    figure.unlink()
    remedy = f"git checkout HEAD -- {figure}"
    assert f"{figure}: missing; bring it back with: {remedy}" in agave("verify").output
    subprocess.run(remedy, shell=True, check=True)
    assert figure.read_bytes() == content


@pytest.mark.integration
def test_outdated_results_stay_outdated(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check changes nothing: what Snakemake plans after an edit, it plans after `agave verify` as well."""
    folder = shutil.copytree(whole, tmp_path / "checkout", symlinks=True)
    monkeypatch.chdir(folder)
    touched = snakemake(folder, "--touch", "--forceall", "--cores", "1", "all", "--config", "preset=tiny")
    assert touched.returncode == 0, touched.stdout
    done = agave("verify")
    assert done.exit_code == 0 and "nothing to be done for all" in done.output, done.output

    path = folder / "params.yaml"
    begin, end = path.read_text().rsplit("joint: {steps: 10,", 1)
    path.write_text(f"{begin}joint: {{steps: 12,{end}")
    planned = jobs(snakemake(folder, "-n", "all", "--config", "preset=tiny"))
    assert planned["joint_cell"] == GRID  # the further systems have a schedule of their own
    before = state(folder)
    done = agave("verify")
    assert done.exit_code == 1
    assert "FAILED  settings" in done.output and "made with training.steps 10; params.yaml says 12" in done.output
    assert "FAILED  workflow" in done.output and "Snakemake would run" in done.output and "joint_cell" in done.output
    assert state(folder) == before
    assert jobs(snakemake(folder, "-n", "all", "--config", "preset=tiny")) == planned

    path.write_text(f"{begin}joint: {{steps: 10,{end}")
    lost = folder / FOLDER / "joint/vae/seed~0/raw.safetensors"  # that nothing reads
    lost.unlink()
    done = agave("verify")
    assert done.exit_code == 0 and "1 not here" in done.output and "nothing to be done for tables" in done.output


@pytest.mark.integration
def test_a_checkout_that_cannot_be_written_to(checkout: Path, tmp_path: Path) -> None:
    plainly = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []  # for root no mode forbids anything
    if plainly and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv where the tests run as root")
    (tmp_path / "scratch").mkdir()
    command = [*plainly, sys.executable, "-m", "agave.cli", "verify", "--preset", "tiny"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout), "TMPDIR": str(tmp_path / "scratch"), "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    modes = {path: path.stat().st_mode for path in [checkout, *checkout.rglob("*")] if not path.is_symlink()}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        assert subprocess.run([*plainly, "touch", str(checkout / "new")], capture_output=True).returncode
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
        environment["TMPDIR"] = str(checkout)  # nor is there another folder for temporary files
        nowhere = subprocess.run([*plainly, sys.executable, "-c", NOWHERE], env=environment, capture_output=True, encoding="utf-8")
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERDICT: all is well" in done.stdout and "Traceback" not in done.stderr
    assert nowhere.returncode == 1 and "Traceback" not in nowhere.stderr
    assert "; accepted: a $TMPDIR that can be written to" in nowhere.stderr


NOWHERE = """
import sys, tempfile
from agave.cli import main
tempfile.tempdir = "."  # as where neither $TMPDIR nor /tmp can be written to
sys.argv = ["agave", "verify", "--preset", "tiny"]
main()
"""


def test_characters_that_the_terminal_lacks_are_no_error(checkout: Path) -> None:
    command = [sys.executable, "-m", "agave.cli", "claims", "--preset", "tiny", "--results", str(FOLDER)]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "iso-8859-1", "PYTHONPATH": str(checkout)}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\\u03bb" in done.stdout and b"Traceback" not in done.stderr


def test_one_flipped_byte_of_any_file_is_named(checkout: Path) -> None:
    """Every file by the check of the checksums, and one of each step by the command."""
    source = Results(load("params.yaml", "tiny"), "tiny", FOLDER)
    checksums = read_checksums(source)
    by_command = {path.split("/")[0]: path for path in checksums}.values()
    for path in checksums:
        file = FOLDER / path
        content = file.read_bytes()
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        (problem,) = checks.check_small_files(source, checksums).problems
        assert problem.startswith(f"{file}: changed")
        if path in by_command:
            done = agave("verify")
            assert done.exit_code == 1
            assert f"{file}: changed" in done.output and "FAILED  checksums  1 of" in done.output
            assert "NOT in order: checksums" in done.output
        file.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_a_flipped_byte_of_the_checksums_is_found(checkout: Path, place: float) -> None:
    file = FOLDER / CHECKSUMS
    content = file.read_bytes()
    at = int(place * len(content))
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    done = agave("verify")
    assert done.exit_code == 1 and str(FOLDER) in done.output


def test_lost_results_and_lost_checksums(checkout: Path) -> None:
    lost = FOLDER / "trainings/history.csv"
    lost.unlink()
    done = agave("verify")
    assert done.exit_code == 1 and f"{lost}: missing" in done.output
    (FOLDER / CHECKSUMS).unlink()
    done = agave("verify")
    assert done.exit_code == 1 and "SHA256SUMS: missing; make it with: snakemake" in done.output


def test_a_larger_grid_than_the_results(checkout: Path) -> None:
    path = Path("params.yaml")
    begin, end = path.read_text().rsplit("kl_weights: [2, 8]", 1)
    path.write_text(f"{begin}kl_weights: [2, 4, 8]{end}")
    done = agave("verify")
    assert done.exit_code == 1
    assert "evaluate/kl_weight~4-levels~256-resolution~16/seed~0/bound.csv: not in records/SHA256SUMS, as the grid asks for" in done.output


def test_a_table_that_does_not_follow_from_its_inputs_is_named_though_the_checksums_agree(checkout: Path, params: Params) -> None:
    table = FOLDER / BOUNDS
    text = table.read_text()
    old = text.splitlines()[3].split(",")[text.split(",").index("kl")]
    table.write_text(text.replace(old, "0.123456789", 1))
    record_again(BOUNDS)
    again = checkout / "again"
    again.mkdir()
    redraw.redraw(params, "tiny", FOLDER, again, Path("claims.yaml"))
    found = dict(redraw.differences(FOLDER, again))
    assert set(found) == {BOUNDS} and '(column name="kl") are different' in found[BOUNDS] and f"0.123456789 != {old}" in found[BOUNDS]


def test_what_counts_as_the_same_to_rounding(checkout: Path, params: Params) -> None:
    again = Path(shutil.copytree(FOLDER, checkout / "again"))

    def changed(path: str, content: bytes | None = None) -> dict[str, str]:
        kept = (again / path).read_bytes()
        if content is not None:
            (again / path).write_bytes(content)
        found = dict(redraw.differences(FOLDER, again))
        (again / path).write_bytes(kept)
        return found

    picture = np.asarray(Image.open(FOLDER / "figures/figure4.png").convert("RGB")).copy()

    def png(array: np.ndarray) -> dict[str, str]:
        Image.fromarray(array).save(checkout / "other.png")
        return changed("figures/figure4.png", (checkout / "other.png").read_bytes())

    assert png(picture) == {}  # the same pixels, other bytes
    picture[: len(picture) // 4] = 0
    assert "another picture" in png(picture)["figures/figure4.png"]
    assert "pixels there" in png(picture[1:])["figures/figure4.png"]
    assert changed("figures/figure4.pdf", b"another library's") == {}
    rows = (FOLDER / "figures/figure4.csv").read_text()
    value = next(cell for cell in rows.splitlines()[1].split(",") if "." in cell)
    for other, same in ((float(value) * (1 + 1e-7), True), (float(value) * 1.001, False)):
        assert (changed("figures/figure4.csv", rows.replace(value, repr(other), 1).encode()) == {}) is same
    assert changed("figures/figure4.csv", rows.encode() + b"1\n") == {"figures/figure4.csv": "other rows or columns"}
    text = (FOLDER / "tables/table1.md").read_bytes()
    assert changed("tables/table1.md", text.replace(b"2.92", b"2.91", 1)) == {
        "tables/table1.md": f"line {1 + text.split(b'2.92')[0].count(bytes([10]))} differs"
    }
    np.savez(checkout / "other.npz", samples=np.zeros((2, 2)))
    assert changed("figures/figure1a.npz", (checkout / "other.npz").read_bytes()) == {"figures/figure1a.npz": "other images"}


def edited(found: list[RunRecord], path: str, **changes: Any) -> list[RunRecord]:
    """The same records with one changed."""
    return [RunRecord.model_validate(record.model_dump() | changes | {"path": path}) if record.path == path else record for record in found]


def test_every_input_that_the_grid_asks_for_must_be_what_an_earlier_step_wrote(checkout: Path, params: Params) -> None:
    source = Results(params, "tiny", FOLDER)
    found, listed = read_all(source), read_checksums(source)
    check = checks.check_chain(source, found, listed)
    count = sum(map(len, job_inputs(params).values()))
    assert check.problems == [] and count > 200
    assert check.summary == f"{len(found)} run records; each of {count} inputs is the output that an earlier step recorded"

    claims = next(record for record in found if record.step == "claims")
    given = {name: file.model_dump() for name, file in claims.inputs.items()}
    broken = [f"claims/run.json: not made from the {BOUNDS} that is recorded beside it"]
    other = given | {BOUNDS: given[BOUNDS] | {"sha256": "0" * 64}}
    unnamed = given | {BOUNDS: {"file": f"sha256:{given[BOUNDS]['sha256']}", "sha256": given[BOUNDS]["sha256"]}}
    lost = {name: file for name, file in given.items() if name != BOUNDS}
    for inputs, problems in ((other, broken), (lost, broken), (unnamed, [])):
        assert checks.check_chain(source, edited(found, "claims/run.json", inputs=inputs), listed).problems == problems
    none = checks.check_chain(source, [record.model_copy(update={"inputs": {}}) for record in found], listed)
    assert len(none.problems) == count
    outputs = checks.check_chain(source, edited(found, "tables/run.json", outputs={"bounds.csv": "0" * 64}), listed)
    assert f"tables/run.json: names another {BOUNDS} than {CHECKSUMS}" in outputs.problems
    Path("claims.yaml").write_text("[]")
    expected = [f"{step}/run.json: made from another claims.yaml than the one here" for step in ("claims", "page")]
    assert checks.check_chain(source, found, listed).problems == expected


def test_results_on_another_disk(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`results` is a link, as it is on clusters: records name files as the user did, and a changed number is found."""
    root = shutil.copytree(whole, tmp_path / "checkout", symlinks=True)
    (root / "results").rename(tmp_path / "disk")
    (root / "results").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(root)
    params = load("params.yaml", "tiny")
    source = Results(params, "tiny", FOLDER)

    def problems() -> list[str]:
        for command in ("tables", "records", "page"):
            assert agave(command, "--results", str(FOLDER)).exit_code == 0
        return checks.check_chain(source, read_all(source), read_checksums(source)).problems

    assert problems() == []
    record = RunRecord.read(source, "tables/run.json")
    assert {file.file for file in record.inputs.values()} == {str(FOLDER / path) for path in job_inputs(params)["tables/run.json"]}
    table = FOLDER / "evaluate/vae/seed~0/bound.csv"
    table.write_text(table.read_text().replace("6", "7", 1))
    assert "tables/run.json: not made from the evaluate/vae/seed~0/bound.csv that is recorded beside it" in problems()


def test_other_parameters_or_code_than_the_records_name(checkout: Path, params: Params) -> None:
    found = read_all(Results(params, "tiny", FOLDER))
    assert checks.check_settings(found, params).problems == []
    changed = edited(found, "figures/figure4.json", source="0" * 64)
    grid = {**next(record for record in found if record.step == "tables").options["grid"], "table_kl_weight": 3.0}
    changed = edited(changed, "tables/run.json", options={"grid": grid})
    assert checks.check_settings(changed, params).problems == [
        "tables/run.json: made with grid.table_kl_weight 3.0; params.yaml says 8.0",
        "figures/figure4.json: made with other code of the step figures (agave digest figures)",
    ]
    joint = "joint/vae/seed~0/run.json"
    training = {"cell": "vae", "training": {**params.joint.model_dump(), "steps": 7}, "compute": {"device": "cpu", "precision": "other"}}
    changed = edited(found, joint, options=training)
    bound = "evaluate/vae/seed~0/bound.json"
    changed = edited(changed, bound, options={"cell": "vae", "evaluate": {"iwae_samples": 999, "seed": 1}})
    assert set(checks.check_settings(changed, params).problems) == {
        f"{joint}: made with training.steps 7; params.yaml says {params.joint.steps}",
        f"{joint}: made with compute.precision other; params.yaml says float32",
        f"{bound}: made with evaluate.seed 1; params.yaml says 0",
    }


def test_weights_that_are_there_are_checked_too(checkout: Path) -> None:
    path = FOLDER / "trainings/runs.jsonl"
    folder = json.loads(path.read_text().splitlines()[0])["folder"]
    (FOLDER / folder).mkdir(parents=True)
    (FOLDER / folder / "history.csv").write_text("other")
    done = agave("verify")
    assert (
        done.exit_code == 1
        and f"{FOLDER / folder / 'history.csv'}: changed" in done.output
        and "in the run record beside it" in done.output
    )


def test_the_compute_table_sums_jobs_and_their_parts(checkout: Path, params: Params) -> None:
    found = read_all(Results(params, "tiny", FOLDER))
    cost = {"wall_seconds": 3600.0, "processor_seconds": 1800.0, "peak_memory_mib": 10.0, "device": "cuda:0", "devices": 2}
    part = {"wall_seconds": 7200.0, "processor_seconds": 3600.0, "peak_memory_mib": 99.0, "device": "cuda:0"}
    bound = edited(found, "evaluate/vae/seed~0/bound.json", **cost, parts={"shard 1": part})
    chosen = [record for record in bound if record.path in ("evaluate/vae/seed~0/bound.json", "prepare/run.json")]
    rows = list(records.compute_rows(chosen))
    assert [row["step"] for row in rows] == ["prepare", "evaluate", "all"]
    assert rows[1] == {
        "step": "evaluate",
        "jobs": 2,
        "wall_hours": 3.0,
        "processor_hours": 1.5,
        "gpu_hours": 4.0,
        "longest_job_minutes": 120.0,
        "peak_memory_mib": 99.0,
    }
    assert rows[2]["jobs"] == 3 and rows[2]["gpu_hours"] == 4.0
    assert [row["step"] for row in records.compute_rows(found)] == [*STEPS[:-1], "all"]


def test_every_step_leaves_a_record(checkout: Path, params: Params) -> None:
    source = Results(params, "tiny", FOLDER)
    found, listed = read_all(source), read_checksums(source)
    assert [step for step in STEPS if step != "report"] == list(dict.fromkeys(record.step for record in found))
    last = next(record for record in found if record.path == RECORDS_RECORD)
    assert set(last.files) == {CHECKSUMS, COMPUTE, records.MARKDOWN}
    assert "trainings/run.json" in listed and RECORDS_RECORD not in listed
