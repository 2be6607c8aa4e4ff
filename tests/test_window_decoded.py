"""The systems whose latent variables condition a window-limited PixelCNN: what lossy_vae and matnet have in common."""

import math

import pytest
import torch
from test_costs import Peak, check_counts, meta_model
from test_costs import images as meta_images

from agave import config
from agave.config import Sample
from agave.evaluation.importance import iwae_bounds
from agave.evaluation.one_sample import one_sample_terms
from agave.grid import Cell
from agave.models import make_model
from agave.objective import objective
from agave.planning import network_costs
from agave.planning.summary import _saved_bytes
from agave.presets import ConfigError
from agave.random_numbers import StepNumbers

SIZE = 8
SMALL = {
    "lossy_vae": {"channels": [4, 6], "latent": 2, "flows": 2, "flow_channels": 4, "decoder": {"sets": 2, "filters": 4, "mixtures": 2}},
    "matnet": {"stride": 2, "channels": [4, 6], "modules": [1, 2], "latent": 2, "top": 3, "top_hidden": 5}
    | {"decoder": {"filters": 4, "mixtures": 2}},
}
DEMO = {  # sizes for which the numbers of parameters are known
    "lossy_vae": {"channels": [16, 32], "latent": 4, "flows": 2, "flow_channels": 16, "decoder": {"sets": 2, "filters": 16, "mixtures": 5}},
    "matnet": {"stride": 2, "channels": [16, 24], "modules": [2, 2], "latent": 2, "top": 8, "top_hidden": 16}
    | {"decoder": {"filters": 16, "mixtures": 5}},
}
ENCODERS = {"lossy_vae": ("encoder",), "matnet": ("stem", "coarser", "finer_merged", "top_posterior", "bottom_up", "merge", "posterior")}

pytestmark = pytest.mark.parametrize("system", SMALL)


@pytest.fixture(scope="module")
def document(root):
    return config.read(root / "params.yaml")


def parameters(document, sizes, image_size=SIZE):
    params = config.resolve(document, "tiny")
    table1 = params.table1.model_validate(params.table1.model_dump() | sizes)
    return params.model_copy(update={"table1": table1, "prepare": params.prepare.model_copy(update={"image_size": image_size})})


def photographs(count, size=SIZE):
    """Smooth images: a slope of its own direction in every channel, and a little noise."""
    generator = torch.Generator().manual_seed(3)
    slopes = torch.randn(count, 3, 2, generator=generator)
    place = torch.linspace(-1, 1, size)
    values = slopes[..., :1, None] * place + slopes[..., 1:, None] * place[:, None]
    return (128 + 50 * values + 3 * torch.randn(values.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


def made(document, system, size=SIZE, double=True):
    torch.manual_seed(0)
    model = make_model(system, parameters(document, SMALL, size), size)
    model = model.double() if double else model
    model.initialise(photographs(16, size))
    model.likelihood_dtype = torch.float64 if double else torch.float32
    return model.eval()


def test_parameters_and_multiply_adds_are_exact(document, system):
    for sizes, size in ((SMALL, SIZE), (DEMO, 32), ({}, 16)):
        check_counts(parameters(document, sizes, size), Cell(system, resolution=size))
    published = config.resolve(document, "paper")
    check_counts(published, Cell(system))
    count = sum(network_costs.parameters(published, Cell(system)).values())
    assert count == {"lossy_vae": 4_391_832, "matnet": 20_764_152}[system]
    if system == "lossy_vae":
        assert sum(network_costs.parameters(parameters(document, DEMO, 32), Cell(system)).values()) == 277_684


def test_memory_of_a_training_step_within_a_quarter(document, system):
    for params in (parameters(document, DEMO, 32), config.resolve(document, "paper")):
        params = params.model_copy(update={"compute": params.compute.model_copy(update={"precision": "float32"})})
        model = meta_model(params, Cell(system))
        measured = _saved_bytes(model, meta_images(32, 2)) - _saved_bytes(model, meta_images(32, 1))
        assert network_costs.kept_bytes(params, Cell(system)) == pytest.approx(measured, rel=0.25)


def test_memory_of_an_evaluation_within_a_factor_of_two(document, system):
    for params in (parameters(document, DEMO, 32), config.resolve(document, "paper")):
        model = meta_model(params, Cell(system)).eval()
        model.likelihood_dtype = torch.float64
        peaks = []
        for batch in (1, 2):
            with torch.no_grad(), Peak() as watched:
                model(meta_images(32, batch))
            peaks.append(watched.most)
        assert 0.5 < network_costs.working_bytes(params, Cell(system)) / (peaks[1] - peaks[0]) < 2


def test_bits_per_dim_after_initialisation_and_the_loss_falls(document, system):
    model = made(document, system, 16, double=False).train()
    x = photographs(16, 16)
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.01)
    losses = []
    for step in range(20):
        loss = objective(model(x, None, model.draw_noise(16, StepNumbers(0, step))), 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()) / (3 * 16 * 16 * math.log(2)))
    assert all(parameter.grad is not None for parameter in model.parameters()), "unused_parameters is False"
    assert math.isfinite(losses[0]) and losses[0] < 12
    assert losses[-1] < losses[0] - 1


def test_the_bound_is_below_the_importance_weighted_one(document, system):
    model, x = made(document, system), photographs(3)
    found = iwae_bounds(model, x, x, samples=10, seed=0, batch=4)
    assert (found["iwae"] >= found["elbo"]).all() and (found["iwae"] > found["elbo"]).any()
    one = one_sample_terms(model, x, x, seed=0, batch=3)
    assert found["growth"][:, 0] == pytest.approx(one["log_prob_x"] - one["kl"], rel=1e-6)  # the first sample is the same


def test_weights_of_samples_from_the_posterior_are_unbiased(document, system):
    """E_q[p(z) / q(z|x)] = 1, which an analytic KL in place of the sampled one would not give."""
    model, rows = made(document, system, 4), 20_000
    for parameter in model.decoder.parameters():
        parameter.requires_grad_(False)
    x = photographs(1, 4).expand(rows, -1, -1, -1)
    with torch.no_grad():
        _, kl, _ = model.infer(model.encode(x), model.draw_noise(rows, StepNumbers(0))["latents"])
    weights = torch.exp(-kl)
    assert kl.mean() > 0.01
    assert (weights.mean() - 1).abs() < 4 * weights.std() / math.sqrt(rows)


def test_drawing_from_the_prior_does_not_touch_the_encoder(document, system):
    model = made(document, system)
    before = model.sample(2, seed=0)
    spoilt = 0
    for name, parameter in model.named_parameters():
        if set(name.split(".")) & set(ENCODERS[system]):
            parameter.data.fill_(torch.nan)
            spoilt += 1
    assert spoilt > 5 and torch.equal(model.sample(2, seed=0), before)
    assert not torch.isfinite(model(photographs(1)).log_prob).any()


def test_the_latent_variables_are_used(document, system, monkeypatch):
    model, x = made(document, system), photographs(2)
    noise = model.draw_noise(2, StepNumbers(0))
    zeros = {"latents": [torch.zeros_like(one) for one in noise["latents"]]}
    with torch.no_grad():
        features, without = model.generate(noise["latents"]), model.generate(zeros["latents"])
        assert (features - without).abs().max() > 1e-3
        assert (model.log_prob_of_pixels(x, features) - model.log_prob_of_pixels(x, without)).abs().max() > 1e-6


def test_images_for_the_figures(document, system):
    model, x = made(document, system), photographs(2)
    found = model.figure_images(x, first=5, options=Sample())
    assert set(found) == {"original", "prior_sample", "reconstruction_sample"}
    assert torch.equal(found["prior_sample"], model.sample(2, seed=Sample().seed, first=5))
    assert torch.equal(model.figure_images(x, first=0, options=Sample())["reconstruction_sample"], model.reconstruct(x, seed=Sample().seed))
    assert not torch.equal(found["reconstruction_sample"], found["prior_sample"])


def test_image_sizes_that_do_not_fit_are_refused(document, system):
    with pytest.raises(ValueError, match="image_size 10; accepted: multiples of 4"):
        make_model(system, parameters(document, SMALL), 10)


def test_what_a_preset_cannot_train_is_refused_early(document, system):
    changes = {
        "grid": {"resolutions": []},
        "table1": {"systems": [system], "matnet": {"channels": [8] * 4, "modules": [1] * 4, "stride": 2}},
    }
    if system == "matnet":
        with pytest.raises(ConfigError, match=r"prepare.image_size 24 is not divisible by 16, which table1.matnet needs"):
            config.resolve(document | {"other": changes | {"prepare": {"source": "photos", "image_size": 24}}}, "other")
    else:
        changes["table1"] = {"systems": [system], "lossy_vae": {"free_bits": 2, "batch": 8}}
        with pytest.raises(ConfigError, match=r"table1.lossy_vae.free_bits 2 needs the mean .* accepted: free_bits 0, .* at least 8"):
            config.resolve(document | {"other": changes | {"compute": {"images_per_pass": 4}}}, "other")
