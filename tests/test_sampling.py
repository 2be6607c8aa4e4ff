import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agave import config, sampling
from agave.likelihoods import split_logits
from agave.models.interface import scale_to_unit
from agave.models.pixelcnn_pp import PixelCNNpp, load_published_weights
from agave.random_numbers import POSTERIOR, PRIOR, KeyedNumbers, StepNumbers
from agave.sampling import sample
from agave.sampling.cuda_graphs import RecordedSteps


def network(filters=6, resnets=1, mixtures=2, resolutions=2, features=3, dtype=torch.float32, size=8, batch=4):
    model = PixelCNNpp(filters, resnets, mixtures, resolutions, features).to(dtype)
    x = torch.randint(0, 256, (16, 3, size, size))
    f = torch.rand(16, features, size, size, dtype=dtype) * 2 - 1 if features else None
    model.initialise(scale_to_unit(x, dtype), f)
    return model.eval(), x[:batch], None if f is None else f[:batch]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("resolutions", "resnets", "features", "size"), [(1, 1, 0, 8), (2, 2, 3, 8), (3, 1, 3, 16), (4, 1, 0, 8), (3, 2, 2, 4)]
)
def test_cached_logits_equal_those_of_the_full_forward(dtype, tolerance, resolutions, resnets, features, size):
    model, x, f = network(resnets=resnets, resolutions=resolutions, features=features, size=size, dtype=dtype)
    with torch.no_grad():
        expected = model(scale_to_unit(x, dtype), f)
    images, logits = sample(model, f, batch=4, shape=(size, size), seed=0, teacher=x, return_logits=True)
    assert torch.equal(images, x.to(torch.uint8))
    assert ((logits - expected).abs().max() / expected.abs().max()) < tolerance


def test_cached_logits_oracle(oracle):
    io, arrays = oracle("a_pixelcnnpp_small_io.npz"), oracle("a_pixelcnnpp_small_params.npz")
    model = PixelCNNpp(16, 2, 5).double()
    load_published_weights(model, arrays)
    teacher = torch.tensor(io["x_uint8"])
    _, logits = sample(model, batch=4, shape=(32, 32), seed=0, teacher=teacher, return_logits=True)
    assert (logits - torch.tensor(io["logits"])).abs().max() < 1e-9


@pytest.mark.parametrize("features", [0, 3])
def test_cached_and_slow_sampling_give_the_same_images(features):
    model, _, f = network(features=features, dtype=torch.float64)
    arguments = {"batch": 4, "shape": (8, 8), "seed": 5}
    fast, slow = sample(model, f, **arguments), sample(model, f, **arguments, cached=False)
    assert torch.equal(fast, slow)
    assert fast.float().std() > 10
    assert not torch.equal(fast, sample(model, f, batch=4, shape=(8, 8), seed=6))


def test_images_do_not_depend_on_how_many_are_drawn_at_once():
    model, _, f = network(dtype=torch.float64)
    whole = sample(model, f, batch=4, shape=(8, 8), seed=1)
    pieces = [sample(model, f[a:b], batch=b - a, shape=(8, 8), seed=1, first=a) for a, b in ((0, 1), (1, 4))]
    assert torch.equal(whole, torch.cat(pieces))


class Recorded(TorchDispatchMode):
    """What a CUDA graph does, on the CPU: the operations of a step are recorded once with the tensors that they touch,
    and a replay runs them on the same memory, whatever the step would do by now."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out

    def replay(self):
        for function, args, kwargs, out in self.operations:
            for old, new in zip(tree_leaves(out), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.mark.parametrize("given", [0, 5])
def test_steps_can_be_recorded_once_and_replayed(given, monkeypatch):
    """The first steps of a kind run, the second are recorded, all others replay the recording: the same images and logits."""
    recordings = []

    class Recording(RecordedSteps):
        def __init__(self, device, record=True):
            super().__init__(device)
            self._records = record

        def record(self, step):
            with Recorded() as recorded:
                step()
            recordings.append(recorded)
            return recorded

    model, x, f = network(resolutions=3, size=16, dtype=torch.float64, batch=2)
    arguments = {"batch": 2, "shape": (16, 16), "seed": 3, "given": x[:, :, :given] if given else None, "return_logits": True}
    expected = sample(model, f, **arguments)
    monkeypatch.setattr(sampling, "RecordedSteps", Recording)
    for one, other in zip(expected, sample(model, f, **arguments), strict=True):
        assert torch.equal(one, other)
    assert len(recordings) == 4 * 16 + (16 if given else 0)  # four kinds of rows; row 4 is the second of its kind that is given


def test_rows_that_are_given_stay_and_the_rest_is_completed():
    model, x, f = network(dtype=torch.float64)
    arguments = {"batch": 4, "shape": (8, 8), "seed": 5, "given": x[:, :, :3].to(torch.uint8)}
    completed = sample(model, f, **arguments)
    assert torch.equal(completed, sample(model, f, **arguments, cached=False))
    assert torch.equal(completed[:, :, :3], x[:, :, :3].to(torch.uint8))
    assert not torch.equal(completed[:, :, 3:], sample(model, f, batch=4, shape=(8, 8), seed=5)[:, :, 3:])
    assert torch.equal(sample(model, f, batch=4, shape=(8, 8), seed=5, given=x), x.to(torch.uint8))


def test_temperature_narrows_and_widens_the_law():
    """Towards 0 every pixel is the mean of the likeliest component; the spread around it grows with the temperature."""
    model, _, f = network(dtype=torch.float64)
    law = [
        config.Sample(images=4, batch=4, seed=5, round_pixels=True, temperature=temperature, completion_rows=3)
        for temperature in (1e-9, 1.0, 1.5)
    ]
    cold, one, hot = (sample(model, f, batch=4, shape=(8, 8), seed=5, options=options, return_logits=True) for options in law)
    assert torch.equal(one[0], sample(model, f, batch=4, shape=(8, 8), seed=5))
    assert torch.equal(cold[0], sample(model, f, batch=4, shape=(8, 8), seed=6, options=law[0]))  # nothing is left to chance
    weights, means, _, _ = split_logits(cold[1])
    red = means[:, 0].gather(1, weights.argmax(1, keepdim=True))[:, 0].clamp(-1, 1)
    assert (red * 127.5 + 127.5 - cold[0][:, 0]).abs().max() <= 0.5 + 1e-6
    first = [(image[:, :, 0, 0].double() - cold[0][:, :, 0, 0]).abs().mean() for image, _ in (one, hot)]  # the same law and noise
    assert first[0] < first[1]


def test_sampling_leaves_the_training_mode():
    model, _, f = network()
    model.train()
    sample(model, f, batch=4, shape=(8, 8), seed=1)
    assert model.training


def test_logits_are_float32_under_half_precision():
    model, x, f = network()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        half = model(scale_to_unit(x), f)
    with torch.no_grad():
        full = model(scale_to_unit(x), f)
    assert half.dtype == torch.float32 and not torch.equal(half, half.bfloat16().float())
    assert 0 < (half - full).abs().max() < 0.2


def test_features_steer_the_samples():
    """The images of different features differ although the noise is the same."""
    model, _, f = network()
    same_noise = [sample(model, f[i : i + 1] * 3, batch=1, shape=(8, 8), seed=1) for i in (0, 1)]
    assert not torch.equal(*same_noise)


def test_bad_arguments_are_refused():
    model, x, f = network()
    with pytest.raises(ValueError, match="features have shape"):
        sample(model, f[:2], batch=4, shape=(8, 8), seed=0)
    with pytest.raises(ValueError, match="teacher is"):
        sample(model, f, batch=4, shape=(8, 8), seed=0, teacher=x[:2])
    with pytest.raises(ValueError, match="multiples of 2"):
        sample(model, None, batch=4, shape=(7, 8), seed=0)
    with pytest.raises(ValueError, match="given is"):
        sample(model, f, batch=4, shape=(8, 8), seed=0, given=x[:2, :, :3])


def test_noise_is_keyed_by_image_sample_and_purpose():
    like = torch.zeros(1)
    whole = KeyedNumbers(0, POSTERIOR, [3, 4], [0, 1]).normal(2, (2, 5), like)
    assert torch.equal(whole[1:], KeyedNumbers(0, POSTERIOR, [4], [1]).normal(2, (1, 5), like))
    others = [
        KeyedNumbers(1, POSTERIOR, [4], [1]).normal(2, (1, 5), like),
        KeyedNumbers(0, PRIOR, [4], [1]).normal(2, (1, 5), like),
        KeyedNumbers(0, POSTERIOR, [4], [0]).normal(2, (1, 5), like),
        KeyedNumbers(0, POSTERIOR, [4], [1]).normal(1, (1, 5), like),
        KeyedNumbers(0, POSTERIOR, [5], [1]).normal(2, (1, 5), like),
    ]
    assert all(not torch.equal(whole[1:], other) for other in others)
    uniforms = KeyedNumbers(0, PRIOR, [0, 1]).uniform(0, (2, 1000), like)
    assert uniforms.min() >= 1e-5 and uniforms.max() <= 1 - 1e-5 and abs(uniforms.mean() - 0.5) < 0.03


def test_noise_of_a_step_does_not_depend_on_how_its_batch_is_cut():
    like = torch.zeros(1)

    def draws(first, rows):
        numbers = StepNumbers(3, 7, first, 6)
        return numbers.normal(0, (rows, 2, 3), like), *numbers.masks(rows, [(5,), (2, 3)], 0.25, like), numbers.uniform(0, (rows, 4), like)

    whole, pieces = draws(0, 6), [draws(0, 2), draws(2, 1), draws(3, 3)]
    for index, one in enumerate(whole):
        assert torch.equal(one, torch.cat([piece[index] for piece in pieces]))
    assert not torch.equal(whole[0], StepNumbers(3, 8, 0, 6).normal(0, (6, 2, 3), like))
    state = torch.random.get_rng_state()
    draws(0, 6)
    assert torch.equal(state, torch.random.get_rng_state())  # nothing else draws from the generator of a step
