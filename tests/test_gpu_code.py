"""What a GPU must not wait for, tested without one: tensors on `meta` stand for those on a GPU, since no value can be read from them."""

import contextlib

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agave import config
from agave.models import SYSTEMS, make_model
from agave.objective import Objective
from agave.random_numbers import POSTERIOR, KeyedNumbers, StepNumbers
from agave.runtime import prefetch
from agave.runtime.checkpoints import RollingState
from agave.runtime.prefetch import Arriving, made_ahead, started_ahead
from agave.runtime.progress import Progress
from agave.training import loop
from agave.training.loop import Pace, Trainer


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device: values that are read, and copies that are not asynchronous."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        on_device = any(isinstance(a, torch.Tensor) and a.device.type == "meta" for a in args)
        if function is torch.ops.aten._local_scalar_dense.default and on_device:
            self.found.append("value")
            return 0.0
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            devices = {str(a.device) for a in args if isinstance(a, torch.Tensor)} | {str(kwargs.get("device") or args[0].device)}
            asynchronous = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            if len(devices) > 1 and not asynchronous:
                self.found.append(str(function))
        return function(*args, **kwargs)


@pytest.mark.parametrize("pieces", [None, 2], ids=["whole", "pieces"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_training_step_waits_once(root, tmp_path, monkeypatch, system, pieces):
    params = config.load(root / "params.yaml", "tiny")
    dropout = params.model.pixelcnn_pp.model_copy(update={"dropout": 0.5})
    params = params.model_copy(update={"model": params.model.model_copy(update={"pixelcnn_pp": dropout})})
    monkeypatch.setattr(loop, "StepNumbers", lambda seed, step, first, whole: StepNumbers(None, step, first, whole))  # meta: no generator
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    with torch.device("meta"):
        model = make_model(system, params, 16)
        x = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    state = RollingState(tmp_path)
    trainer = Trainer(model, x, x, Objective(2.0), params.joint, seed=0, state=state, pace=Pace(piece=pieces))
    trainer.prepare()
    with Progress(10, "", "step", quiet=True) as progress:
        for _ in range(3):
            with Waits() as waits:
                trainer.train_step(progress)
            assert waits.found == ["value"]
            trainer.at.step += 1
    state.close()
    assert trainer.at.skipped == 0


def test_noise_made_ahead_is_the_same_noise(root, monkeypatch):
    model = make_model("agave", config.load(root / "params.yaml", "tiny"), 16).eval()

    def sources():
        return [(2, KeyedNumbers(3, POSTERIOR, range(first, first + 2))) for first in range(0, 10, 2)]

    monkeypatch.setattr(prefetch, "hand_over", lambda tensor, _: tensor)
    threads = list(made_ahead(model.draw_noise, sources(), torch.device("cuda")))
    plain = list(made_ahead(model.draw_noise, sources(), torch.device("cpu")))
    assert len(threads) == len(plain) == 5
    for one, other in zip(threads, plain, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one["latents"], other["latents"], strict=True))


def test_masks_and_uniforms_made_on_the_host_are_the_same():
    numbers = KeyedNumbers(0, POSTERIOR, range(2))
    host, like = prefetch.HostNumbers(numbers), torch.zeros(1)
    assert torch.equal(host.uniform(0, (2, 5), like), numbers.uniform(0, (2, 5), like))
    one, other = (source.masks(2, [(3, 4)], 0.5, like)[0] for source in (host, numbers))
    assert torch.equal(one, other)


def test_a_fault_in_the_background_is_not_lost():
    def fail(batch, numbers):
        raise ValueError("no numbers")

    with pytest.raises(ValueError, match="no numbers"):
        list(made_ahead(fail, [(1, KeyedNumbers(0, POSTERIOR, [0]))], torch.device("cuda")))


def test_a_gpu_starts_the_next_item_before_one_is_used():
    for device, expected in (("cpu", [1, 2, 3]), ("cuda", [2, 3, 3])):
        started = []
        items = (started.append(item) or item for item in range(3))
        seen = [(item, len(started)) for item in started_ahead(items, torch.device(device))]
        assert [item for item, _ in seen] == [0, 1, 2] and [count for _, count in seen] == expected
    assert np.array_equal(Arriving(torch.arange(3)).values(), [0, 1, 2])
