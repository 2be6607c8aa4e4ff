"""The plan of a preset: sums and bounds that must hold, the command, and what the workflow asks for."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from agave import config, grid
from agave.cli import main
from agave.errors import UserError
from agave.grid import Cell
from agave.planning import network_costs, plan


@pytest.fixture(scope="module")
def document(root):
    return config.read(root / "params.yaml")


@pytest.fixture
def run(root, monkeypatch):
    monkeypatch.chdir(root)
    return lambda *arguments: CliRunner().invoke(main, ["plan", *map(str, arguments)])


@pytest.mark.parametrize("preset", ["paper", "study", "demo", "tiny"])
def test_every_job_of_the_workflow_is_planned(document, preset):
    params = config.resolve(document, preset)
    made = plan.make(params, plan.stated(params))
    models, seeds = len(grid.all_cells(params)), len(params.grid.seeds)
    tables = len(grid.sampled_cells(params))
    jobs = {rule["rule"]: rule["jobs"] for rule in made["rules"]}
    assert jobs["joint_cell"] == jobs["evaluate_bound"] == models * seeds
    assert (jobs["sample_cell"], jobs["evaluate_iwae"], jobs["pretrain_pixelcnn_pp"]) == (models * seeds, tables * seeds, seeds)
    assert made["total"]["jobs"] == sum(jobs.values()) + sum(plan.small_jobs().values())


def test_operations_of_a_training_by_hand(document):
    params = config.resolve(document, "paper")
    one = plan.job(params, "joint_cell", Cell(kl_weight=8.0))
    forward = sum(network_costs.multiply_adds(params, Cell()).values())
    assert one.operations == 100_000 * 64 * 3 * 2 * forward
    # published sizes: 106.8 M weights with gradients, Adamax's two moments and averages in float32, activations in about half of it
    assert 7 * plan.GIB < one.memory < 11 * plan.GIB


def test_importance_samples_cost_decoder_passes(document):
    params = config.resolve(document, "paper")
    parts = network_costs.multiply_adds(params, Cell())
    one = plan.job(params, "evaluate_iwae", Cell())
    assert one.operations == 10_000 * 2 * (parts["encoder"] + 150 * (sum(parts.values()) - parts["encoder"]))
    assert plan.job(params, "evaluate_bound", Cell()).operations == 10_000 * 2 * sum(parts.values())


def test_twice_the_throughput_takes_half_the_time_of_a_training(document):
    params = config.resolve(document, "paper")
    one = plan.job(params, "joint_cell", Cell())
    slow, fast = (plan.seconds(one, plan.stated(params, tflops)) - plan.STARTUP_SECONDS for tflops in (10.0, 20.0))
    assert slow == pytest.approx(2 * fast)
    assert slow == pytest.approx(one.operations / 10e12)


def test_wall_time_lies_between_its_bounds(document):
    params = config.resolve(document, "demo")
    times = {n: plan.make(params, plan.stated(params), n)["wall_hours"] for n in (1, 2, 8, 1000)}
    chain = plan.longest_chain(params, plan.stated(params))
    assert times[1][0] == pytest.approx(times[1][1])
    assert times[1000][0] == pytest.approx(chain)
    assert times[1][0] > times[2][0] > times[8][0] >= times[1000][0]
    assert all(least <= most for least, most in times.values())


def test_what_jobs_ask_for(document):
    paper, demo = (config.resolve(document, preset) for preset in ("paper", "demo"))
    training = plan.job(paper, "pretrain_pixelcnn_pp", Cell("pixelcnn_pp"))
    evaluation = plan.job(paper, "evaluate_iwae", Cell())
    slow = plan.stated(paper, 1.0)
    assert plan.minutes(training, slow) == plan.minutes(training, slow, attempt=3) == plan.LONGEST_TRAINING
    assert plan.minutes(evaluation, slow, attempt=2) == 2 * plan.minutes(evaluation, slow) > 60
    assert plan.minutes(plan.job(demo, "evaluate_bound", Cell()), plan.stated(demo)) == 30
    assert plan.mem_mb(training, attempt=2) == 2 * plan.mem_mb(training)
    # three trainings of the demo fit side by side into what the local profile allows
    trainings = [one for one, _ in plan.jobs(demo) if one.rule in plan.TRAININGS]
    assert all(plan.mem_mb(one) <= (1600 if one.kind != "nice" else 1900) for one in trainings)  # NICE: its whitening


def test_the_command_prints_a_table_and_writes_json(run, tmp_path):
    file = tmp_path / "plans" / "paper.json"
    result = run("--preset", "paper", "--tflops", 50, "--gpus", 8, "--json", file)
    assert result.exit_code == 0, result.output
    assert "wall time on 8 devices side by side" in result.output and "training 50\n" in result.output
    assert "not measured" in result.output and max(map(len, result.output.splitlines())) <= 140
    written = json.loads(file.read_text())
    assert written["preset"] == "paper" and written["devices"] == 8
    assert sum(rule["device_hours"] for rule in written["rules"]) == pytest.approx(written["total"]["device_hours"])


def test_calibration_measures_this_machine(run, monkeypatch):
    monkeypatch.setattr("agave.planning.throughput.SECONDS", 6.0)
    result = run("--preset", "tiny", "--calibrate")
    assert result.exit_code == 0, result.output
    assert "1 core of this machine" in result.output
    assert "measured: training steps and forward passes of agave at batch" in result.output  # the others too, if time was left


def test_a_network_that_is_not_reached_in_time_is_not_measured(document, monkeypatch):
    from agave.planning import throughput as calibration

    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    found = calibration.calibrate(config.resolve(document, "tiny"))
    assert set(found.training) == set(found.evaluation) == {"agave", "vae", "pixelcnn_pp"}
    assert found.training["vae"] == found.training["agave"] > 0
    assert "vae not reached in time" in found.origin


@pytest.mark.parametrize("tflops", [0.0, -1.0, float("nan"), float("inf")])
def test_a_throughput_that_is_not_positive_is_refused(document, run, tflops):
    with pytest.raises(UserError, match="accepted: a positive number"):
        plan.stated(config.resolve(document, "tiny"), tflops)
    assert run("--preset", "tiny", "--tflops", tflops).exit_code == 1


def test_throughput_is_stated_or_measured_not_both(run):
    result = run("--preset", "tiny", "--tflops", 1, "--calibrate")
    assert result.exit_code == 2 and "exclude each other" in result.output


def test_planning_needs_no_torch(root):
    code = "import sys, agave.planning.plan; assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
