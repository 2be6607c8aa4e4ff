"""Run records: paths that mean something elsewhere, commands that make the same bytes again, all that changes bits."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agave.models.ops import compiled
from agave.provenance.git import git_state
from agave.provenance.run_record import Recorder, RunRecord, recording
from agave.provenance.surroundings import ENVIRONMENT, explicit_command

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose results lie on another disk, reached by a link."""
    folder = tmp_path / "checkout"
    (tmp_path / "disk/tiny/prepare").mkdir(parents=True)
    (tmp_path / "disk/tiny/prepare/train.npy").write_text("images")
    folder.mkdir()
    (folder / "results").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(folder)
    return folder


def written(path: Path, *argv: str, **facts: object) -> RunRecord:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/somewhere/agave", *argv])
        Recorder("tables", {}, {"images": Path("results/tiny/prepare/train.npy")}, None).write(path, [], **facts)
    return RunRecord.parse(path.read_bytes(), path="run.json")


def test_paths_in_the_checkout_stay_as_given_and_others_become_portable(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "results/tiny/prepare"
    (checkout.parent / "own.npz").write_text("x")
    given = ["--data", data, f"--output={checkout / data}", "--images", "../own.npz", "--state", str(checkout.parent), "--seed", "0"]
    record = written(checkout / "run.json", *given)
    own = f"sha256:{record.inputs['images'].sha256}"
    assert record.inputs["images"].file == f"{data}/train.npy"
    assert record.command[:4] == ["agave", "--data", data, f"--output={data}"]
    assert record.command[4:6] != ["--images", own] and record.command[5].startswith("sha256:")
    assert record.command[6:] == ["--state", checkout.parent.name, "--seed", "0"]
    link = checkout.parent / "by another way"
    link.symlink_to(checkout)
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    assert written(checkout / "run.json", "--data", str(link / data)).command[1:] == ["--data", data]


def test_a_record_is_read_as_it_was_written_and_what_is_none_is_refused(checkout: Path) -> None:
    record = written(checkout / "run.json", parameters=7)
    assert record.model_extra == {"parameters": 7} and record.step == "tables" and record.folder == "."
    assert RunRecord.parse(json.dumps(record.as_json()).encode(), path="run.json") == record
    for change, problem in (({"step": "draw"}, "step: .*'draw' is not a step"), ({"inputs": {"a": {}}}, "inputs.a.file: field required")):
        with pytest.raises(ValueError, match=problem):
            RunRecord.parse(json.dumps(record.as_json() | change).encode(), path="run.json")


def test_a_step_that_fails_leaves_no_record(checkout: Path) -> None:
    with pytest.raises(RuntimeError), recording("tables", {}, {"absent": Path("absent")}, checkout / "run.json"):
        raise RuntimeError
    assert not (checkout / "run.json").exists()


def test_the_command_spells_out_what_it_takes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import click

    from agave.cli import evaluate, pretrain, tables

    def command(step: click.Command, *argv: str, **values: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["/x/agave/cli.py", *argv])
        with click.Context(step):
            return explicit_command(values)

    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert command(tables, "tables") == ["agave", "tables"]
    assert command(evaluate.commands["bound"], "evaluate", "bound", "vae", threads=3, device="cuda:1") == [
        "agave",
        "evaluate",
        "bound",
        "vae",
        "--threads",
        "3",
        "--device",
        "cuda",
    ]
    given = command(pretrain, "pretrain", "vae", "--devices", "0", "--threads=2", threads=2, device="cpu", devices=4)
    assert given == ["agave", "pretrain", "vae", "--devices", "4", "--threads=2", "--device", "cpu"]
    monkeypatch.setenv("AGAVE_KERNELS", "0")
    assert command(pretrain, "pretrain", threads=1)[:3] == ["env", "AGAVE_KERNELS=0", "agave"]
    assert command(tables, "tables") == ["agave", "tables"]


def test_a_record_says_what_changes_bits(checkout: Path) -> None:
    import torch

    compiled.library()
    record = written(checkout / "run.json")
    assert record.threads == torch.get_num_threads() and record.cpu_capability == torch.backends.cpu.get_cpu_capability()
    assert record.kernels == ("torch" if compiled.library() is None else "compiled")
    assert {"torch", "numpy", "scipy", "pandas", "seaborn", "scikit-image", "pillow"} <= record.packages.keys()
    script = (
        "from pathlib import Path; from agave.provenance.run_record import Recorder; "
        "Recorder('tables', {}, {}).write(Path('run.json'), []); import sys; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    plain = RunRecord.parse(Path("run.json").read_bytes(), path="run.json")
    assert plain.threads is plain.kernels is plain.cpu_capability is None


def test_only_the_checkout_of_the_code_counts_as_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(tmp_path)]
    (tmp_path / "agave").mkdir()
    (tmp_path / "agave/__init__.py").write_text("")
    assert git_state(tmp_path / "agave") == {"commit": None, "dirty": None}
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "of something else"], check=True)
    assert git_state(tmp_path / "agave")["commit"] is None  # unpacked inside another repository
    (tmp_path / "results").mkdir()
    (tmp_path / "results/table.csv").write_text("")
    (tmp_path / "dvc.lock").write_text("")
    subprocess.run([*git, "add", "agave", "results", "dvc.lock"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "code"], check=True)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    found = git_state(tmp_path / "agave")
    assert len(str(found["commit"])) == 40 and found["dirty"] is False
    (tmp_path / "results/table.csv").unlink()  # what a run writes
    (tmp_path / "dvc.lock").write_text("of another run")
    assert git_state(tmp_path / "agave") == found
    (tmp_path / "agave/__init__.py").write_text("X = 1\n")
    assert git_state(tmp_path / "agave") == found | {"dirty": True}


def test_a_compiler_may_have_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "env LC_ALL=C cc")
    assert compiled.build().exists()


@pytest.mark.parametrize("surroundings", ["no home", "home that is read-only"])
def test_kernels_go_to_the_temporary_folder_where_the_cache_cannot_be_used(
    surroundings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    def read_only(path: Path, mode: int) -> bool:
        return not str(path).startswith(str(tmp_path / "home"))

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    home: Callable[[], Path] = no_home if surroundings == "no home" else lambda: tmp_path / "home"
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(os, "access", read_only)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"agave-{os.getuid()}"
    assert compiled.cache_folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err == f"note: no home folder that can be written to; compiled kernels go to {folder}\n"
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="belongs to another user"):
        compiled.cache_folder()


@pytest.mark.integration
def test_the_recorded_command_makes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(command: list[str], threads: int) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "PATH": path, "PYTHONPROFILEIMPORTTIME": "1"}
        done = subprocess.run(["bash", "-c", shlex.join(command)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "agave.config" in done.stderr and "agave.sampling" not in done.stderr  # code_digest.UNUSED

    run(["agave", "prepare", "--preset", "tiny", "--output", "results/tiny/prepare"], 1)
    output = "results/tiny/pretrain/vae-resolution~16/seed~0"
    run(["agave", "pretrain", "vae", "--preset", "tiny", "--data", "results/tiny/prepare", "--output", output], 2)
    first = RunRecord.parse((tmp_path / output / "run.json").read_bytes(), path="")
    assert first.threads == 2 and first.command[-6:] == ["--threads", "2", "--device", "cpu", "--devices", "1"]
    run(first.command, 1)
    again = RunRecord.parse((tmp_path / output / "run.json").read_bytes(), path="")
    assert again.threads == 2 and again.outputs["model.safetensors"] == first.outputs["model.safetensors"]


def test_records_of_one_process_share_its_cpu_time(tmp_path):
    def seconds(name: str) -> float:
        Recorder("tables", {}, {}).write(tmp_path / name, [])
        return float(json.loads((tmp_path / name).read_text())["processor_seconds"])

    seconds("first.json")
    end = time.process_time() + 1
    while time.process_time() < end:
        pass
    assert seconds("second.json") >= 1 > seconds("third.json")
