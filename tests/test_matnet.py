"""MatNet: its KL, its top-down pass, and the grids of its modules."""

import pytest
import torch

from agave.config_networks import MatNetModel as Sizes
from agave.models.gaussian import Gaussian
from agave.models.matnet import MatNet
from agave.random_numbers import StepNumbers

SMALL = {"stride": 1, "channels": [4, 6, 4], "modules": [1, 2, 1], "latent": 2, "top": 3, "top_hidden": 5}
SMALL |= {"decoder": {"filters": 4, "mixtures": 2}}


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = MatNet(Sizes.model_validate(SMALL), 16).double()
    made.initialise(torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8))
    for name, parameter in made.named_parameters():  # posteriors and priors far from one another
        if (".posterior." in name or ".prior.1." in name) and name.endswith("gain"):
            parameter.data *= 8
    return made


def test_the_analytic_kl_is_the_mean_of_the_sampled_one():
    posterior, prior = (Gaussian(torch.randn(1, 2, 3, 1).double(), 0.5 * torch.randn(1, 2, 3, 1).double()) for _ in range(2))
    wide = Gaussian(*(one.expand(100_000, -1, -1, -1) for one in posterior))
    z = wide.draw(torch.randn(100_000, 2, 3, 1).double())
    sampled = wide.log_prob(z) - prior.log_prob(z)
    exact = posterior.kl(prior).flatten(1).sum(1)
    assert exact > 0.5 and (sampled.mean() - exact).abs() < 4 * sampled.std() / 100_000**0.5
    assert (prior.kl(prior) == 0).all()
    by_torch = torch.distributions.kl_divergence(*(torch.distributions.Normal(g.mean, g.log_deviation.exp()) for g in (posterior, prior)))
    assert torch.allclose(exact, by_torch.sum(), rtol=1e-12)


def test_the_top_down_pass_of_inference_is_generation_given_the_same_latent_variables(model):
    """Nothing but z carries information from the image: with the noise that gives the same z from the prior, generation repeats it."""
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    drawn, priors = [], []
    for module in model.stack:
        module.step[0].register_forward_hook(lambda layer, given, out: drawn.append(given[0][:, : model.latent]))
        module.prior.register_forward_hook(lambda layer, given, out: priors.append(Gaussian.from_outputs(out)))
    top = []
    model.begin.register_forward_hook(lambda layer, given, out: top.append(given[0]))
    with torch.no_grad():
        features, _, _ = model.infer(model.encode(x), model.draw_noise(2, StepNumbers(0))["latents"])
        noise = [(z - prior.mean) * torch.exp(-prior.log_deviation) for z, prior in zip(drawn, priors, strict=True)]
        assert len(noise) == sum(SMALL["modules"])
        again = model.generate([top[0], *noise])
    assert torch.allclose(again, features, rtol=1e-9, atol=1e-10)


def test_every_latent_variable_of_the_posterior_reaches_the_pixels(model):
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    noise = model.draw_noise(2, StepNumbers(0))["latents"]
    encoding = model.encode(x)
    before, _, _ = model.infer(encoding, noise)
    for index in range(len(noise)):
        changed = [one.clone() for one in noise]
        changed[index] += 1
        assert (model.infer(encoding, changed)[0] - before).abs().max() > 1e-4


def test_the_noise_follows_the_grids(model):
    shapes = [tuple(one.shape) for one in model.latent_noise(2, StepNumbers())]
    assert shapes == [(2, 3, 1, 1), (2, 2, 4, 4), (2, 2, 8, 8), (2, 2, 8, 8), (2, 2, 16, 16)]
    half = MatNet(Sizes.model_validate(SMALL | {"stride": 2}), 16)
    assert [one.shape[-1] for one in half.latent_noise(2, StepNumbers())] == [1, 2, 4, 4, 8]
    assert half.generate(half.latent_noise(2, StepNumbers())).shape == (2, 4, 16, 16)


def test_the_published_reading_has_as_many_latent_variables_as_the_authors_code():
    with torch.device("meta"):
        noise = MatNet(Sizes(), 32).latent_noise(1, StepNumbers())
    assert sum(one.numel() for one in noise) == 31_520


def test_numbers_of_modules_and_of_channels_must_agree():
    with pytest.raises(ValueError, match=r"modules \[1, 2\] for channels \[4, 6, 4\]; accepted: as many"):
        Sizes.model_validate(SMALL | {"modules": [1, 2]})
