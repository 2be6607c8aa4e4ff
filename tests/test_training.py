import contextlib
import dataclasses
import math
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from agave import config
from agave.auxiliary_image import auxiliary_image
from agave.errors import UserError
from agave.models import make_model
from agave.objective import Objective
from agave.runtime.checkpoints import RollingState, identity
from agave.runtime.interruption import InterruptedWorkError, Stop
from agave.training import loop as training
from agave.training.loop import Pace, Trainer
from agave.training.schedule import batch_indices, ema_rate, learning_rate
from agave.training.tensorboard import watching
from agave.training.weights import FlatWeights


@pytest.fixture(scope="module")
def params(root):
    return config.load(root / "params.yaml", "tiny")


def images(count=24, size=16):
    """Smooth coloured images: there is something to learn."""
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 256, (count, 3, 2, 2))
    smooth = torch.nn.functional.interpolate(torch.from_numpy(corners).float(), size=size, mode="bilinear")
    return smooth.round().to(torch.uint8)


def run(params, folder, steps=12, stop=None, goal=None, system="agave", resolution=16, pace=None, watch=None, **changes):
    options = params.joint.model_copy(update={"steps": steps, **changes})
    torch.manual_seed(0)
    model = make_model(system, params, 16, resolution=resolution).train()
    x = images()
    y = auxiliary_image(x, resolution)
    model.initialise(x, y)
    state = RollingState(folder)
    try:
        return Trainer(model, x, y, goal or Objective(2.0), options, seed=0, state=state, stop=stop, pace=pace, watch=watch).run()
    finally:
        state.close()


def interrupt_after(monkeypatch, steps):
    """Make training see a signal after so many steps."""

    class Counting(threading.Event):
        count = 0

        def is_set(self):
            self.count += 1
            return self.count >= steps

    @contextlib.contextmanager
    def signals():
        yield Counting()

    monkeypatch.setattr(training, "stopping_signals", signals)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def without_speed(history):
    """The rows as they are written, less the one column that no rerun repeats."""
    return [[(name, value) for name, value in row.items() if name != "images_per_second"] for row in history]


def test_training_lowers_the_loss(params, tmp_path):
    result = run(params, tmp_path, steps=60)
    totals = [row["total"] for row in result.history]
    assert np.mean(totals[-10:]) < np.mean(totals[:10]) - 0.5
    assert result.skipped == 0
    last = result.history[-1]
    assert last["total"] == pytest.approx(last["kl"] + last["pixelcnn_reconstruction"])
    assert not same(result.averaged, result.raw)


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(params, tmp_path, monkeypatch):
    whole = run(params, tmp_path / "whole", stop=Stop(save_every=0.0))
    with monkeypatch.context() as context:
        for steps in (3, 4):
            interrupt_after(context, steps)
            with pytest.raises(InterruptedWorkError, match=r"interrupted at step .* run again to resume"):
                run(params, tmp_path / "pieces")
    pieces = run(params, tmp_path / "pieces")
    assert same(whole.averaged, pieces.averaged) and same(whole.raw, pieces.raw)
    assert without_speed(whole.history) == without_speed(pieces.history)


def test_a_finished_run_is_not_trained_again(params, tmp_path, monkeypatch):
    first = run(params, tmp_path)
    monkeypatch.setattr(training, "objective", lambda *_: pytest.fail("a step was made"))
    assert same(first.raw, run(params, tmp_path).raw)


def test_time_limit_saves_and_stops(params, tmp_path):
    with pytest.raises(InterruptedWorkError, match="time limit reached at step 1 of 12"):
        run(params, tmp_path, stop=Stop(time_limit=0.0))
    assert len(list(tmp_path.glob("state-*.safetensors"))) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_state_is_named_and_the_one_before_is_used(params, tmp_path, monkeypatch, capsys, damage):
    whole = run(params, tmp_path / "whole")
    interrupt_after(monkeypatch, 8)
    with pytest.raises(InterruptedWorkError):
        run(params, tmp_path / "cut", stop=Stop(save_every=0.0))
    monkeypatch.undo()
    states = sorted((tmp_path / "cut").glob("state-*.safetensors"))
    assert len(states) == 2  # the last two are kept
    data = bytearray(states[-1].read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    states[-1].write_bytes(data if damage == "flip" else data[: len(data) // 2])
    assert same(whole.raw, run(params, tmp_path / "cut").raw)
    assert f"{states[-1]}: damaged" in capsys.readouterr().err


def test_a_second_process_on_one_state_is_refused(tmp_path):
    state = RollingState(tmp_path)
    with pytest.raises(UserError, match="another process is training"):
        RollingState(tmp_path)
    state.close()
    RollingState(tmp_path).close()


def test_updates_that_are_not_finite_stop_the_run_with_the_term_named(params, tmp_path):
    with pytest.raises(UserError, match=r"51 updates in a row .* gradient_norm above skip_gradient_norm 1e-09 .*kl"):
        run(params, tmp_path, steps=400, skip_gradient_norm=1e-9)


def test_a_training_that_skips_more_than_a_quarter_of_its_updates_ends_with_an_error_and_its_state(params, tmp_path, monkeypatch):
    real, calls = training.objective, []

    def poisoned(terms, *arguments):
        calls.append(None)
        return real(terms, *arguments) * (math.inf if len(calls) % 3 == 0 else 1)

    monkeypatch.setattr(training, "objective", poisoned)
    with pytest.raises(UserError, match=r"4 of 12 updates, more than 25%, had to be skipped.*lower the learning rate"):
        run(params, tmp_path)
    assert len(list(tmp_path.glob("state-*.safetensors"))) == 1


def test_a_value_that_is_not_finite_is_named_with_step_and_images_and_its_update_skipped(params, tmp_path, monkeypatch, capsys):
    real, calls = training.objective, []

    def poisoned(terms, *arguments):
        calls.append(None)
        if len(calls) == 3:
            terms = dataclasses.replace(terms, kl_objective=terms.kl_objective * math.inf, kl=terms.kl + math.inf)
        return real(terms, *arguments)

    monkeypatch.setattr(training, "objective", poisoned)
    result = run(params, tmp_path)
    said = capsys.readouterr().err
    images = ", ".join(map(str, batch_indices(2, params.joint.batch, 24, seed=0)))
    assert f"update of step 2 (images {images}) skipped" in said and "not finite" in said
    assert result.skipped == 1 and result.history[-1]["skipped"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in result.raw.values())


def test_passes_and_checkpointing_change_results_by_rounding_only(params, tmp_path):
    plain = run(params, tmp_path / "plain", steps=4)
    for name, pace in (("passes", Pace(piece=3)), ("checkpointing", Pace(checkpointing=True))):
        other = run(params, tmp_path / name, steps=4, pace=pace)
        assert max(float((plain.raw[key] - other.raw[key]).abs().max()) for key in plain.raw) < 1e-4, name
        assert other.history[-1]["total"] == pytest.approx(plain.history[-1]["total"], abs=1e-4), name


def test_dropout_and_latent_noise_of_an_image_do_not_depend_on_the_pass(params, tmp_path):
    half = params.model.pixelcnn_pp.model_copy(update={"dropout": 0.5})
    changed = params.model_copy(update={"model": params.model.model_copy(update={"pixelcnn_pp": half})})
    plain = run(changed, tmp_path / "plain", steps=3)
    pieces = run(changed, tmp_path / "pieces", steps=3, pace=Pace(piece=1))
    assert max(float((plain.raw[key] - pieces.raw[key]).abs().max()) for key in plain.raw) < 1e-4
    dropless = run(params, tmp_path / "dropless", steps=3)
    assert max(float((plain.raw[key] - dropless.raw[key]).abs().max()) for key in plain.raw) > 1e-3


def test_free_bits_need_the_whole_batch(params, tmp_path):
    vae = params.model.vae.model_copy(update={"free_bits": 0.1})
    changed = params.model_copy(update={"model": params.model.model_copy(update={"vae": vae})})
    with pytest.raises(UserError, match=r"free_bits 0.1 needs the mean over the whole batch.*accepted"):
        run(changed, tmp_path, pace=Pace(piece=2))


def test_half_precision_trains(params, tmp_path):
    full, half = run(params, tmp_path / "full", steps=40), run(params, tmp_path / "half", steps=40, pace=Pace(autocast=torch.bfloat16))
    assert half.history[-1]["total"] == pytest.approx(full.history[-1]["total"], abs=0.3)
    assert {tensor.dtype for tensor in half.raw.values()} == {torch.float32}


def test_tensorboard_shows_the_rows_of_the_history(params, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with watching(tmp_path / "board", "joint", "cell", 0) as watch:
        result = run(params, tmp_path / "state", watch=watch)
    events = EventAccumulator(str(tmp_path / "board/joint/cell/0"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("total")]
    assert shown == [(row["step"], pytest.approx(row["total"], rel=1e-6)) for row in result.history]
    assert result.history[-1]["images_per_second"] > 0


def test_baselines_and_low_resolutions_train(params, tmp_path):
    vae = run(params, tmp_path / "vae", system="vae_iaf", goal=Objective(1.0))
    assert vae.history[-1]["pixelcnn_reconstruction"] is None
    assert vae.history[-1]["total"] == pytest.approx(vae.history[-1]["kl"] + vae.history[-1]["vae_reconstruction"])
    pixelcnn_pp = run(params, tmp_path / "pixelcnn_pp", system="pixelcnn_pp")
    assert pixelcnn_pp.history[-1]["kl"] is None and pixelcnn_pp.history[-1]["total"] == pixelcnn_pp.history[-1]["pixelcnn_reconstruction"]
    assert run(params, tmp_path / "low", resolution=8, steps=3).history[-1]["vae_reconstruction"] > 0


def test_without_the_auxiliary_loss_only_x_trains_the_decoder(params, tmp_path):
    """Eq. 6: log p(y|z) has no part in the gradient, so the scales of its logistics stay where they were."""
    torch.manual_seed(0)
    result = run(params, tmp_path, goal=Objective(1.0, auxiliary=False))
    other = run(params, tmp_path / "with", goal=Objective(1.0))
    fresh = run(params, tmp_path / "one", steps=1, goal=Objective(1.0, auxiliary=False))
    assert torch.equal(result.raw["vae.log_scale"], fresh.raw["vae.log_scale"])
    assert not torch.equal(other.raw["vae.log_scale"], fresh.raw["vae.log_scale"])


def test_every_epoch_shows_every_image_once():
    seen = np.concatenate([batch_indices(step, 4, 10, seed=3) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    assert list(batch_indices(2, 4, 10, seed=3)) == list(seen[8:12])
    assert list(batch_indices(2, 4, 10, seed=4)) != list(seen[8:12])


def test_learning_rate_schedule(params):
    options = params.joint.model_copy(update={"steps": 100, "warmup_steps": 10, "cooldown_steps": 20, "learning_rate": 1.0})
    rates = [learning_rate(options, step) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == rates[50] == rates[79] == 1.0
    assert rates[80] == 1.0 and rates[99] == pytest.approx(0.05) and all(np.diff(rates[80:]) < 0)
    constant = params.joint.model_copy(update={"steps": 5, "warmup_steps": 0, "cooldown_steps": 0})
    assert {learning_rate(constant, step) for step in range(5)} == {constant.learning_rate}


def test_average_forgets_early_steps():
    average = 3.0
    average += ema_rate(0, 0.999) * (0.0 - average)
    assert average == 0.0  # the first weights
    average += ema_rate(1, 0.999) * (1.0 - average)
    assert average == pytest.approx(9 / 11)  # 1 - (1 + 1) / (10 + 1)
    for updates in range(2, 20_000):
        average += ema_rate(updates, 0.999) * (5.0 - average)
    assert average == pytest.approx(5.0, abs=1e-3)


def test_weights_in_one_vector_train_as_torch_trains_them_one_by_one(params):
    """Adamax of torch on single tensors, and their averages; of a parameter without a gradient nothing changes."""
    torch.manual_seed(0)
    flat, plain = (make_model("agave", params, 16, resolution=16).train() for _ in range(2))
    plain.load_state_dict(flat.state_dict())
    weights, optimizer = FlatWeights(flat), torch.optim.Adamax(plain.parameters(), lr=0.01)
    averages = [parameter.detach().clone() for parameter in plain.parameters()]
    for step in range(4):
        gradients = [torch.randn(p.shape) if k > 0 else None for k, p in enumerate(plain.parameters())]
        for model in (flat, plain):
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
        norm = float(weights.collect_gradient())
        assert norm == pytest.approx(math.sqrt(sum(float(one.square().sum()) for one in gradients if one is not None)), rel=1e-5)
        assert all(parameter.grad is None for parameter in flat.parameters())
        optimizer.step()
        weights.update(0.01, 0.9)
        rate = ema_rate(step, 0.9)
        averages = [average + rate * (p.detach() - average) for average, p in zip(averages, plain.parameters(), strict=True)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(flat.parameters(), plain.parameters(), strict=True))
    averaged = weights.averaged_state()
    assert all(torch.allclose(averaged[name], b, atol=1e-6) for (name, _), b in zip(flat.named_parameters(), averages, strict=True))
    assert same(weights.state(), {name: tensor.detach() for name, tensor in flat.state_dict().items()})


def test_a_training_step_and_an_evaluation_do_not_import_torchs_compiler(root):
    """It takes longer to import than many a job of the workflow to compute."""
    code = """
import sys, torch
from agave import config
from agave.evaluation.memory import evaluation_cost
from agave.models import make_model
from agave.objective import objective
from agave.training.weights import FlatWeights
import agave.steps.evaluate, agave.training.job
model = make_model("agave", config.load("params.yaml", "tiny"), 16).train()
weights, x = FlatWeights(model), torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
objective(model(x, x), 1.0).backward()
weights.collect_gradient()
weights.update(0.01, 0.9)
evaluation_cost(model.eval())
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_identity_changes_with_everything_that_decides_a_training():
    assert identity(a=1, b={"c": 2}) == identity(b={"c": 2}, a=1) != identity(a=1, b={"c": 3})
