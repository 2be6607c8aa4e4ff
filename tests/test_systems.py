"""What every system must do, whatever it is: one interface for the loop, evaluation, sampling and the tables."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import agave
from agave import config
from agave.errors import UserError
from agave.grid import Cell
from agave.models import SYSTEMS, make_model
from agave.models.files import describe_model
from agave.random_numbers import StepNumbers
from agave.runtime.checkpoints import write_tensors

ROOT = Path(__file__).resolve().parents[1]
SIZE = 16
BOUNDS = {"exact", "dequantised", "elbo"}

pytestmark = pytest.mark.parametrize("system", SYSTEMS)


@pytest.fixture(scope="module")
def params():
    return config.load(ROOT / "params.yaml", "tiny")


@pytest.fixture
def model(params, system):
    torch.manual_seed(0)
    model = make_model(system, params, SIZE)
    x = images(8)
    model.initialise(x, x)
    return model.eval()


def images(count):
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_a_system_says_what_it_is(model, system):
    assert model.system == system and model.bound in BOUNDS and model.likelihood_of in {"x", "y"}
    assert all(isinstance(getattr(model, part), torch.nn.Module) for part in model.parts)


def test_terms_are_per_image_and_do_not_depend_on_the_batch(model):
    model = model.double()
    model.likelihood_dtype = torch.float64
    x = images(3)
    with torch.no_grad():
        noise = model.draw_noise(3, StepNumbers(0))
        whole = model(x, x, noise)
        alone = model(x[1:2], x[1:2], {name: [one[1:2] for one in tensors] for name, tensors in noise.items()})
    assert whole.kl.shape == whole.log_prob.shape == (3,) and torch.isfinite(whole.log_prob).all()
    assert torch.allclose(whole.log_prob[1], alone.log_prob[0], rtol=1e-12)
    assert (whole.kl == 0).all() or model.bound == "elbo"


def test_the_kl_of_the_objective_has_the_mean_of_the_sampled_one(model):
    """Importance weights need the sampled KL; the objective may take an analytic one."""
    model = model.double()
    x = images(1).expand(64, -1, -1, -1)
    with torch.no_grad():
        terms = model(x, x, model.draw_noise(64, StepNumbers(0)))
    standard_error = 8 * terms.kl.std()  # of the sum
    assert (terms.kl_objective - terms.kl.sum()).abs() < 5 * standard_error + 1e-9


def test_the_python_entry_points(model, system, params, tmp_path):
    kinds = {"vae_iaf": "vae"}
    cell = Cell(kinds.get(system, system), resolution=SIZE)
    write_tensors(tmp_path / "model.safetensors", model.state_dict(), describe_model(cell, params))
    loaded = agave.load(tmp_path / "model.safetensors")
    x = images(3)
    array = np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())
    nats = loaded.log_prob(array)
    assert nats.dtype == torch.float64 and nats.shape == (3,) and torch.equal(nats, loaded.log_prob(x))
    assert torch.allclose(nats, loaded.log_prob(x, batch=2), rtol=1e-6)
    drawn = loaded.sample(3, seed=0)
    assert drawn.dtype == torch.uint8 and drawn.shape == (3, 3, SIZE, SIZE)
    assert torch.equal(drawn, loaded.sample(3, seed=0)) and not torch.equal(drawn, loaded.sample(3, seed=1))
    assert torch.equal(drawn[1:], loaded.sample(2, seed=0, first=1))
    for wrong in (x[:, :2], x.float(), x[:0], array[0]):
        with pytest.raises(UserError, match="accepted: uint8, an array"):
            loaded.log_prob(wrong)
    if loaded.bound == "elbo":
        assert loaded.reconstruct(array).shape == (3, 3, SIZE, SIZE)
    else:
        with pytest.raises(UserError, match="has no latent variables"):
            loaded.reconstruct(array)


def test_sub_pixels_see_only_what_comes_before_them(model, system):
    """Strict causality by perturbation: a change of a pixel, or of one of its colours where these are modelled one after another, leaves
    the log-probabilities of all that come before it as they are, and its own later colours notice it."""
    if not hasattr(model, "log_prob_subpixels"):
        assert model.bound != "exact"
        return
    model = model.double()
    model.likelihood_dtype = torch.float64
    x = images(1)

    def log_probs(x):  # in the order of generation: (places,) or (places x 3,)
        found = model.log_prob_subpixels(x)[0]
        return (found.permute(1, 2, 0) if found.ndim == 3 else found).flatten()

    with torch.no_grad():
        before = log_probs(x)
        colours = len(before) // SIZE**2
        noticed = torch.zeros(colours, colours, dtype=torch.bool)
        for place in (0, 17, SIZE * SIZE // 2, SIZE * SIZE - 1):
            for colour in range(colours):
                changed = x.clone()
                changed[0, slice(None) if colours == 1 else colour, place // SIZE, place % SIZE] ^= 255
                after, first = log_probs(changed), place * colours
                assert torch.equal(before[: first + colour], after[: first + colour])
                assert before[first + colour] != after[first + colour]
                noticed[:, colour] |= (before != after)[first : first + colours]
        assert torch.equal(noticed, torch.ones_like(noticed).tril())


def test_the_log_probabilities_of_pixels_add_up(model, system):
    model.likelihood_dtype = torch.float64
    terms = model(images(3))
    assert terms.log_prob_pixels is not None or system not in ("agave", "pixelcnn_pp")  # whose bits are mapped
    if terms.log_prob_pixels is not None:
        assert terms.log_prob_pixels.shape == (3, SIZE, SIZE) and not terms.log_prob_pixels.requires_grad
        assert torch.allclose(terms.log_prob_pixels.sum((1, 2)), terms.log_prob_x, rtol=1e-12, atol=0)


@pytest.mark.integration
@pytest.mark.parametrize("part", ["compile", "cuda"])
def test_a_system_is_one_graph_and_stays_on_its_device(system, part):
    """In a process of its own: the type checker of the tests cannot be compiled."""
    done = subprocess.run([sys.executable, "tests/tracing.py", system, part], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
