"""The check of a GPU, tried on a CPU with the networks of the preset tiny."""

import json
import os
import resource
import subprocess
import sys

import pytest
from click.testing import CliRunner

from agave.cli import main
from agave.models import SYSTEMS

pytestmark = pytest.mark.integration

SECONDS = 180  # of one core


@pytest.fixture(scope="module")
def report(root, tmp_path_factory):
    """Run the check as CI does, in the time that it has there: of a core, since the machine may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    folder = tmp_path_factory.mktemp("gpu-check")
    command = [sys.executable, "-m", "agave.cli", "gpu-check", "--device", "cpu", "--size", "tiny", "--state-dir", str(folder / "state")]
    command += ["--output", str(folder / "gpu")]
    done = subprocess.run(command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    for part in ("environment", "correctness", "speed", "learning"):
        assert f"gpu-check: {part}: " in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS
    (path,) = (folder / "gpu").glob("*/report.json")
    return path, command


def test_the_report_holds_every_part(report):
    path, _ = report
    found = json.loads(path.read_text())
    assert found["passed"] and found["size"] == "tiny" and set(found["parts"]) == {"environment", "correctness", "speed", "learning"}
    names = " ".join(check["name"] for check in found["parts"]["correctness"]["checks"])
    for what in ("gradient", "importance-sampled", "whole passes", "CUDA graphs", "killed and resumed", "two devices"):
        assert what in names
    speed = found["parts"]["speed"]
    assert {row["mode"] for row in speed["training"]} == {"eager", "compiled"} and len(speed["kernels"]) >= 10
    assert all(row["convolutions_share"] > 0 for row in speed["training"] if row["mode"] == "eager")
    assert {row["system"] for row in speed["training"]} == set(SYSTEMS)
    assert found["recommended"]["rules"].keys() >= {"joint_cell", "evaluate_iwae"} and found["recommended"]["paper_device_hours"] > 0
    page = path.with_name("report.md").read_text()
    assert "All checks passed" in page and "far too small" in page
    assert all(path.with_name(name).stat().st_size > 5000 for name in ("learning.png", "speed.png"))


def test_a_plan_takes_the_throughput_of_the_report(report):
    result = CliRunner().invoke(main, ["plan", "--preset", "tiny", "--device-report", str(report[0])])
    assert result.exit_code == 0, result.output
    assert "measured by agave gpu-check" in result.output and "preset tiny, NOT the published ones" in result.output
    both = CliRunner().invoke(main, ["plan", "--preset", "tiny", "--device-report", str(report[0]), "--tflops", "3"])
    assert both.exit_code == 2 and "excludes" in both.output


def test_finished_parts_are_not_run_again(report, root):
    path, command = report
    path.unlink()
    done = subprocess.run(command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("done before") == 4 and path.exists(), done.stderr


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    result = CliRunner().invoke(main, ["gpu-check", "--output", str(tmp_path)])
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1
    assert "shows no GPU" in result.output and "--device cpu --size tiny" in result.output


def test_an_unknown_part_is_named(tmp_path):
    result = CliRunner().invoke(
        main, ["gpu-check", "--device", "cpu", "--size", "tiny", "--parts", "speed,sped", "--output", str(tmp_path)]
    )
    assert result.exit_code == 1 and "part 'sped'" in result.output


@pytest.mark.parametrize("text", ["{", "{}", '{"throughput": {"a": 1}}'])
def test_a_file_that_is_no_report_is_refused(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    result = CliRunner().invoke(main, ["plan", "--preset", "tiny", "--device-report", str(tmp_path / "report.json")])
    assert result.exit_code == 1 and "of `agave gpu-check`" in result.output and len(result.output.splitlines()) == 1
