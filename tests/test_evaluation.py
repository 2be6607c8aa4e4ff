"""The bounds of a model with random weights: chunks, shards, resumption, folded weights, memory; and what is refused."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from agave import config, grid
from agave.auxiliary_image import auxiliary_image
from agave.cli import main
from agave.data.arrays import load_images
from agave.errors import UserError
from agave.evaluation import importance, memory
from agave.evaluation.importance import growth_samples, iwae_bounds, shard_range
from agave.evaluation.one_sample import one_sample_terms
from agave.likelihoods import bits_per_dim
from agave.models import make_model
from agave.models.files import describe_model
from agave.models.layers import WeightNormConv2d, folded
from agave.runtime.checkpoints import RollingState, write_tensors
from agave.runtime.devices import images_to_tensor
from agave.runtime.interruption import InterruptedWorkError, Stop

CELL = "kl_weight~2-levels~256-resolution~16"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("prepared")
    result = CliRunner().invoke(main, ["prepare", "--params", str(root / "params.yaml"), "--preset", "tiny", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def params(root):
    return config.load(root / "params.yaml", "tiny")


def new_model(params, x, dtype=torch.float32):
    torch.manual_seed(0)
    model = make_model("agave", params, 16)
    model.initialise(x, x)
    model.likelihood_dtype = torch.float64
    return model.to(dtype).eval()


@pytest.fixture(scope="module")
def images(prepared):
    return images_to_tensor(load_images(prepared, "test")[:5], torch.device("cpu"))


@pytest.fixture(scope="module")
def weights(params, images, tmp_path_factory):
    """A file of weights as `agave joint` writes it."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_tensors(path, new_model(params, images).state_dict(), describe_model(grid.parse_cell(CELL, 16), params))
    return path


def largest_difference(one, other):
    return max(np.abs(bits_per_dim(one[name] - other[name], 768)).max() for name in one)


def test_bounds_do_not_depend_on_chunks_and_batches(params, images):
    model, y = new_model(params, images, torch.float64), auxiliary_image(images, 16)
    bounds = [iwae_bounds(model, images, y, samples=7, seed=0, batch=batch) for batch in (7, 3, 1)]
    assert max(largest_difference(bounds[0], other) for other in bounds[1:]) < 1e-9
    assert len(np.unique(bounds[0]["iwae"])) == 5  # the images differ


def test_shards_give_the_same_values_to_the_last_bit(params, images):
    """In float32, too: an image is never computed together with another one."""
    model = new_model(params, images)
    whole = iwae_bounds(model, images, images, samples=5, seed=0, batch=2)
    for count in (2, 3, 5):
        ranges = [shard_range(number, count, 5) for number in range(1, count + 1)]
        assert [image for part in ranges for image in part] == list(range(5))
        pieces = [
            iwae_bounds(model, images[part.start : part.stop], images[part.start : part.stop], samples=5, seed=0, batch=2, first=part.start)
            for part in ranges
        ]
        for name, values in whole.items():
            assert np.array_equal(values, np.concatenate([piece[name] for piece in pieces]))


def test_growth_holds_the_bounds_with_fewer_samples(params, images):
    assert growth_samples(150) == [1, 2, 5, 10, 50, 150] and growth_samples(7) == [1, 2, 5, 7] and growth_samples(1) == [1]
    model = new_model(params, images, torch.float64)
    bounds = iwae_bounds(model, images, images, samples=7, seed=0, batch=4)
    for column, count in enumerate(growth_samples(7)):
        fewer = iwae_bounds(model, images, images, samples=count, seed=0, batch=4)
        assert np.abs(bounds["growth"][:, column] - fewer["iwae"]).max() < 1e-9
    assert np.array_equal(bounds["growth"][:, -1], bounds["iwae"])


def test_an_interrupted_shard_goes_on_from_what_it_had(params, images, tmp_path, monkeypatch):
    model = new_model(params, images)
    arguments = {"samples": 3, "seed": 0, "batch": 3}
    whole = iwae_bounds(model, images, images, **arguments)
    state = RollingState(tmp_path)
    with pytest.raises(InterruptedWorkError, match=r"time limit reached after 1 of 5 images, run again to resume"):
        iwae_bounds(model, images, images, **arguments, state=state, stop=Stop(time_limit=0.0))
    computed = []
    real = importance._bounds_of
    monkeypatch.setattr(importance, "_bounds_of", lambda *a: computed.append(1) or real(*a))
    resumed = iwae_bounds(model, images, images, **arguments, state=state)
    assert len(computed) == 4
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    iwae_bounds(model, images, images, **arguments, state=state)
    assert len(computed) == 4  # what is done is not computed again
    state.close()


def test_folded_weights_are_computed_once_and_change_nothing(params, images):
    model = new_model(params, images)
    layers = [layer for layer in model.modules() if isinstance(layer, WeightNormConv2d)]
    noise = {"seed": 0, "batch": 5}
    before = one_sample_terms(model, images, images, **noise)
    with folded(model):
        assert all(layer.weight() is layer.weight() for layer in layers)
        inside = one_sample_terms(model, images, images, **noise)
        with torch.no_grad():
            layers[0].gain.mul_(2.0)
        assert np.array_equal(one_sample_terms(model, images, images, **noise)["kl"], inside["kl"])
    assert all(np.array_equal(before[name], inside[name]) for name in before)
    assert not np.array_equal(one_sample_terms(model, images, images, **noise)["kl"], inside["kl"])
    assert layers[0].weight() is not layers[0].weight()


def test_memory_is_that_of_the_tensors():
    def run():
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1
        del a
        view = b.view(10, 100)
        return (view * 2).sum()  # the peak: b, which the view holds, twice the view, and the sum

    assert memory.peak_bytes(run) == 8004
    assert memory.peak_bytes(lambda: torch.zeros(10) + torch.zeros(10)) == 120


def test_the_batch_fits_the_memory():
    cost = memory.MemoryCost(fixed=100 * memory.MIB, per_row=10 * memory.MIB)
    assert [cost.batch(budget * memory.MIB, 50) for budget in (110, 149, 10_000)] == [1, 4, 50]
    with pytest.raises(UserError, match="memory 109 MiB: one image at a time needs about 110 MiB; accepted: --memory 110 or more"):
        cost.batch(109 * memory.MIB, 50)


def test_twice_the_batch_takes_twice_the_memory_of_a_row(params):
    small, large = (memory.evaluation_cost(make_model("agave", params, size).to("meta")) for size in (16, 32))
    assert small.fixed == large.fixed
    assert large.per_row == pytest.approx(4 * small.per_row, rel=0.1)


@pytest.fixture
def run(root, monkeypatch, prepared, weights, tmp_path):
    monkeypatch.chdir(root)

    def invoke(command, *arguments, model=weights):
        common = ["--preset", "tiny", "--data", prepared, "--model", model, "--output", tmp_path / "o"]
        state = ["--state-dir", tmp_path / "w"] if command == "iwae" else []
        return CliRunner().invoke(main, [str(argument) for argument in ("evaluate", command, CELL, *arguments, *common, *state)])

    return invoke


def test_gathered_shards_are_the_whole(run, tmp_path):
    assert run("iwae").exit_code == 0
    names = ("iwae.csv", "growth.csv", "iwae.npz")
    whole = [(tmp_path / "o" / name).read_bytes() for name in names]
    for name in names:
        (tmp_path / "o" / name).unlink()
    for shard in ("1-of-3", "2-of-3", "3-of-3"):
        result = run("iwae", "--shard", shard)
        assert result.exit_code == 0, result.output
    result = run("gather", 3)
    assert result.exit_code == 0, result.output
    assert [(tmp_path / "o" / name).read_bytes() for name in names] == whole
    for name in names[:2]:
        assert {"samples", "images"} <= set((tmp_path / "o" / name).read_text().splitlines()[0].split(","))
    path = tmp_path / "o" / "iwae-2-of-3.npz"
    with np.load(path) as file:
        arrays = dict(file)
    for changed, message in (
        ({"identity": np.array("other")}, "another model or evaluation"),
        ({"first": np.array(0)}, "not images 1 to 1"),
    ):
        np.savez(path, **arrays | changed)
        result = run("gather", 3)
        assert result.exit_code == 1 and message in result.output
    path.write_bytes(path.read_bytes()[:100])
    assert "not a complete .npz file" in run("gather", 3).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["iwae", "--shard", "1-of-5"], "5 shards for 4 images; accepted: 1 to 4"),
        (["gather", "5"], "5 shards for 4 images; accepted: 1 to 4"),
        (["iwae", "--shard", "5-of-4"], "shard '5-of-4'; accepted: NUMBER-of-COUNT"),
        (["iwae", "--shard", "1/4"], "shard '1/4'; accepted: NUMBER-of-COUNT"),
        (["gather", "2"], "iwae-1-of-2.npz: there is no such file"),
        (["bound", "--shard", "1-of-2"], "No such option '--shard'"),
        (["gather", "0"], "0 is not in the range x>=1"),
        (["iwae", "--memory", "1"], "memory 1 MiB: one image at a time needs about"),
        (["bound", "--memory", "1"], "memory 1 MiB: one image at a time needs about"),
        (["bound", "--memory", "0"], "0 is not in the range x>=1"),
    ],
)
def test_bad_input_is_named_before_any_work(run, tmp_path, arguments, message):
    result = run(*arguments)
    assert result.exit_code != 0 and message in result.output and "Traceback" not in result.output
    assert not (tmp_path / "o").exists() and not (tmp_path / "w").exists()


def test_wrong_checkpoints_are_refused(run, params, weights, images, tmp_path):
    torch.manual_seed(0)
    wider = params.model.model_copy(update={"vae": params.model.vae.model_copy(update={"hidden": 16})})
    state = make_model("agave", params.model_copy(update={"model": wider}), 16).state_dict()
    other, truncated = tmp_path / "other.safetensors", tmp_path / "truncated.safetensors"
    write_tensors(other, state, describe_model(grid.parse_cell(CELL, 16), params))
    truncated.write_bytes(weights.read_bytes()[:-100])
    for model, message in ((other, "weights of another architecture"), (truncated, "truncated, or not a safetensors file")):
        for arguments in (["bound"], ["iwae"]):
            result = run(*arguments, model=model)
            assert result.exit_code == 1 and message in result.output
    assert not (tmp_path / "o").exists() and not (tmp_path / "w").exists()


def test_the_map_of_bits_adds_up_to_the_bound(params, images):
    model = new_model(params, images)
    whole, pieces = (one_sample_terms(model, images, images, seed=0, batch=batch, mapped=3) for batch in (5, 2))
    for name in ("bits_map", "bits_of_pixels"):
        assert np.allclose(whole[name], pieces[name], rtol=1e-6, atol=1e-6)  # convolutions round by the size of a batch
    of_images = -whole["log_prob_x"] / np.log(2)
    assert whole["bits_of_pixels"].shape == (3, 16, 16)
    assert whole["bits_of_pixels"].astype(np.float32).sum((1, 2)) == pytest.approx(of_images[:3], rel=1e-5)
    assert whole["bits_map"].astype(np.float32).sum() == pytest.approx(of_images.mean(), rel=1e-5)
    assert "bits_of_pixels" not in one_sample_terms(model, images, images, seed=0, batch=2)


def test_no_samples_are_no_bound(params, images):
    with pytest.raises(ValueError, match="samples 0, batch 4; accepted: at least 1 each"):
        iwae_bounds(new_model(params, images), images, images, samples=0, seed=0, batch=4)


def test_half_precision_is_named_in_the_result(run, tmp_path):
    exact, rough = [], []
    for values, precision in ((exact, "float32"), (rough, "bfloat16")):
        assert run("bound", "--precision", precision).exit_code == 0
        header, row = (line.split(",") for line in (tmp_path / "o" / "bound.csv").read_text().splitlines())
        found = dict(zip(header, row, strict=True))
        assert found["precision"] == precision
        values.append(float(found["pixelcnn_bits_per_dim"]))
    assert 0 < abs(exact[0] - rough[0]) < 0.1
