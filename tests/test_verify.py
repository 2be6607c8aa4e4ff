"""The reviewer's check: what it says of results in order, and that each kind of tampering is found and named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fake_results import write_records, write_results
from PIL import Image
from test_workflow import check_out

from agave.cli import main
from agave.config import Params, load
from agave.results import BOUNDS, Results
from agave.review import redraw, verify
from agave.steps import records

FOLDER = Path("results/tiny")


def agave(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--preset", "tiny"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the small results of the preset `tiny`, as a clone of the git repository has them: no weights, no arrays."""
    root = check_out(tmp_path_factory.mktemp("verify") / "checkout")
    params = load(root / "params.yaml", "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_results(params, FOLDER)
        write_records(params, FOLDER)
        for command in (["tables"], ["figures"], ["claims"], ["records"]):
            done = agave(*command, "--results", str(FOLDER))
            assert done.exit_code == 0, done.output
    for step in ("pretrain", "joint"):
        shutil.rmtree(root / FOLDER / step)
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


def listed() -> Iterator[str]:
    for line in (FOLDER / records.CHECKSUMS).read_text().splitlines():
        yield line.split("  ")[1]


def record_again(*changed: str) -> None:
    """Tamper with the checksums as well."""
    path = FOLDER / records.CHECKSUMS
    lines = [line.split("  ") for line in path.read_text().splitlines()]
    hashes = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() if name in changed else old for old, name in lines}
    path.write_text("".join(f"{value}  {name}\n" for name, value in hashes.items()))


def test_results_in_order_and_a_deleted_figure_that_alone_is_made_again(checkout: Path) -> None:
    figure = FOLDER / "figures/figure4.png"
    before = {path: (FOLDER / path).read_bytes() for path in listed()}
    figure.unlink()
    done = agave("verify")
    assert done.exit_code == 0, done.output
    assert "missing were figures/figure4.png: made again by figure_4; nothing to be done for tables figures claims records" in done.output
    assert f"{len(redraw.drawn())} of {len(redraw.drawn())} files the same bytes" in done.output
    assert "0 as recorded, " in done.output and "not here (dvc pull brings them)" in done.output
    assert "C1   not testable at this scale" in done.output and "VERDICT: all is well" in done.output
    assert {path: (FOLDER / path).read_bytes() for path in listed()} == before


def test_one_flipped_byte_of_any_file_is_named(checkout: Path) -> None:
    for path in listed():
        file = FOLDER / path
        content = file.read_bytes()
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        done = agave("verify")
        assert done.exit_code == 1
        assert f"{file}: changed" in done.output and "FAILED  checksums  1 of" in done.output and "NOT in order: checksums" in done.output
        file.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_a_flipped_byte_of_the_checksums_is_found(checkout: Path, place: float) -> None:
    file = FOLDER / records.CHECKSUMS
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
    (FOLDER / records.CHECKSUMS).unlink()
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
    old = text.splitlines()[3].split(",")[9]
    table.write_text(text.replace(old, "0.123456789", 1))
    record_again(BOUNDS)
    again = checkout / "again"
    again.mkdir()
    redraw.redraw(params, "tiny", FOLDER, again, Path("claims.yaml"))
    found = dict(redraw.differences(FOLDER, again))
    assert found == {BOUNDS: f"line 4: 0.123456789 there, {old} now"}


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


def test_an_input_that_no_record_wrote_breaks_the_chain(checkout: Path, params: Params) -> None:
    found = records.read_all(Results(params, "tiny", FOLDER))
    assert verify._chain(found).problems == []
    found["claims/run.json"]["inputs"][BOUNDS]["sha256"] = "0" * 64
    assert verify._chain(found).problems == [f"claims/run.json: made from another {BOUNDS} than the one recorded beside it"]


def test_other_parameters_or_code_than_the_records_name(checkout: Path, params: Params) -> None:
    found = records.read_all(Results(params, "tiny", FOLDER))
    assert verify._settings(found, params).problems == []
    found["figures/figure4.json"]["source"] = "0" * 64
    found["tables/run.json"]["options"]["grid"]["table_kl_weight"] = 3.0
    assert verify._settings(found, params).problems == [
        "tables/run.json: made with grid.table_kl_weight 3.0; params.yaml says 8.0",
        "figures/figure4.json: made with other code of the step figures (agave digest figures)",
    ]
    joint = {"step": "joint", "outputs": {}, "options": {"cell": "vae", "training": {**params.joint.model_dump(), "steps": 7}}}
    bound = {"step": "evaluate", "outputs": {"bound.csv": ""}, "options": {"evaluate": {"iwae_samples": 999, "seed": 1}}}
    assert verify._settings({"joint/vae": joint, "bound": bound}, params).problems == [
        f"joint/vae: made with training.steps 7; params.yaml says {params.joint.steps}",
        "bound: made with evaluate.seed 1; params.yaml says 0",
    ]


def test_weights_that_are_there_are_checked_too(checkout: Path) -> None:
    path = FOLDER / "trainings/runs.jsonl"
    folder = json.loads(path.read_text().splitlines()[0])["folder"]
    (FOLDER / folder).mkdir(parents=True)
    (FOLDER / folder / "history.csv").write_text("other")
    done = agave("verify")
    assert done.exit_code == 1 and f"{FOLDER / folder / 'history.csv'}: changed" in done.output and "run record says" in done.output


def test_the_compute_table_sums_jobs_and_their_parts(checkout: Path, params: Params) -> None:
    found = records.read_all(Results(params, "tiny", FOLDER))
    one = {
        "step": "evaluate",
        "wall_seconds": 3600.0,
        "processor_seconds": 1800.0,
        "peak_memory_mib": 10.0,
        "device": "cuda:0",
        "devices": 2,
    }
    part = {"wall_seconds": 7200.0, "processor_seconds": 3600.0, "peak_memory_mib": 99.0, "device": "cuda:0"}
    rows = records._compute({"a": one | {"parts": {"shard 1": part}}, "prepare/run.json": found["prepare/run.json"]})
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
