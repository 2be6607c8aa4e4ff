"""Convolutional DRAW: Gaussians in colour levels, a KL in the closed form, a bound, a canvas that is a sum, an encoder that only infers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agave import config
from agave.config_networks import ConvDRAWModel
from agave.evaluation.importance import iwae_bounds
from agave.likelihoods import bits_per_dim
from agave.models.conv_draw import LEAST_PIXEL_DEVIATION, LEVELS_PER_UNIT, ConvolutionalDRAW
from agave.models.gaussian import Gaussian, gaussian_log_density
from agave.random_numbers import KeyedNumbers, StepNumbers


def images(count, size=8, seed=1):
    """Smooth images with a little noise."""
    numbers = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 3, 2, 2, generator=numbers) * 255
    smooth = F.interpolate(corners, size=size, mode="bilinear", align_corners=True)
    return (smooth + 8 * torch.randn(smooth.shape, generator=numbers)).clamp(0, 255).to(torch.uint8)


def network(size=8, **sizes):
    torch.manual_seed(0)
    model = ConvolutionalDRAW(ConvDRAWModel(**({"hidden": 6, "latent": 2, "steps": 3, "kernel": 3} | sizes)), size).double()
    model.likelihood_dtype = torch.float64
    model.initialise(images(16, size))
    return model.eval()


def test_density_in_levels_oracle(oracle):
    """The mean log-density of a value with uniform noise is below the log-mass of its level."""
    data = {name: torch.tensor(value) for name, value in oracle("table1/o11_gaussian_levels.npz").items()}
    nodes, weights = (torch.tensor(one) for one in np.polynomial.legendre.leggauss(60))
    value = torch.arange(256).double()[:, None] + (nodes + 1) / 2  # (256, 60)
    mean, log_sd = data["mean"].view(7, 1, 1, 1), data["log_sd"].view(1, 5, 1, 1)
    found = (gaussian_log_density(value, mean, log_sd) * weights / 2).sum(-1)
    mass = data["log_mass"]
    compared = mass > math.log(1e-9)
    assert compared.any() and torch.allclose(found[compared], data["expected_log_density"][compared], rtol=1e-9)
    assert (found[compared] <= mass[compared] + 1e-12).all()


def test_closed_form_of_the_kl():
    one, other = (Gaussian(torch.randn(50).double(), torch.randn(50).double()) for _ in range(2))
    expected = torch.distributions.kl_divergence(*(torch.distributions.Normal(g.mean, g.log_deviation.exp()) for g in (one, other)))
    assert torch.allclose(one.kl(other), expected, rtol=1e-12) and (one.kl(other) >= 0).all() and (one.kl(one) == 0).all()


def test_the_kl_of_every_step_is_positive_and_they_add_up():
    model, x = network(), images(4)
    noise = model.draw_noise(4, StepNumbers(0))
    with torch.no_grad():
        _, kl = model.draw(model.encode(x), noise["latents"])
        terms = model(x, None, noise)
    sampled, analytic = kl
    assert sampled.shape == analytic.shape == (4, 3) and (analytic > 0).all()
    assert torch.allclose(terms.kl, sampled.sum(1), rtol=1e-12) and torch.allclose(terms.kl_objective, analytic.sum(), rtol=1e-12)


def test_the_bound_of_one_latent_variable_is_below_the_likelihood():
    """One step on a grid of one place: the integral over z is done by quadrature, for the likelihood and for the bound."""
    model = network(2, hidden=3, latent=1, steps=1, kernel=1)
    with torch.no_grad():
        for parameter in (model.step.posterior.mean.gain, model.step.posterior.log_deviation.gain, model.step.write.mean.gain):
            parameter.mul_(3)  # z matters, and its posterior is not its prior
    x = images(1, 2, seed=3)
    uniform = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    points = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    density = gaussian_log_density(points, torch.zeros(()), torch.zeros(())) + math.log(points[1] - points[0])

    with torch.no_grad():
        noise = [points.view(-1, 1, 1, 1)]
        pixels, _ = model.draw(None, noise)
        log_prob = torch.logsumexp(density + gaussian_log_density(x + uniform, *pixels).sum((1, 2, 3)), 0)
        whole = {"latents": noise, "dequantisation": [uniform.expand(4001, -1, -1, -1)]}
        terms = model(x.expand(4001, -1, -1, -1), None, whole)
    bound = (density.exp() * terms.log_prob).sum()
    gap = log_prob - bound
    assert gap > 1e-3 and torch.allclose((density.exp() * terms.kl).sum(), terms.kl_objective / 4001, rtol=1e-6)
    assert torch.allclose(torch.logsumexp(density + terms.log_prob, 0), log_prob, rtol=1e-9)  # all importance samples together
    # the gap is the KL of the posterior from the true one, by the definition of the latter
    z, kl_of_posterior = _posterior(model, x, points)
    assert torch.allclose(kl_of_posterior(log_prob, x + uniform, z), gap, rtol=1e-6)


def _posterior(model, x, points):
    """Return z at the nodes of the posterior, and the KL of the posterior from p(z | x) at the noisy values."""
    found = []
    handle = model.step.posterior.register_forward_hook(lambda _, __, out: found.append(out))
    prior = []
    other = model.step.prior.register_forward_hook(lambda _, __, out: prior.append(out))
    with torch.no_grad():
        model.draw(model.encode(x), [torch.zeros(1, 1, 1, 1).double()])
    handle.remove(), other.remove()
    posterior, first = found[0], prior[0]
    z = posterior.draw(points.view(-1, 1, 1, 1))

    def kl(log_prob, value, z):
        with torch.no_grad():
            pixels, _ = model.draw(None, [(z - first.mean) * torch.exp(-first.log_deviation)])
        true = gaussian_log_density(z, *first).flatten() + gaussian_log_density(value, *pixels).sum((1, 2, 3)) - log_prob
        mine = gaussian_log_density(z, *posterior).flatten()
        weights = torch.exp(gaussian_log_density(points, torch.zeros(()), torch.zeros(()))) * (points[1] - points[0])
        return (weights * (mine - true)).sum()

    return z, kl


def test_without_information_in_z_it_is_a_gaussian():
    """One step whose posterior is its prior, and which writes nothing: the first canvas, and no KL."""
    model, x = network(steps=1), images(3)
    with torch.no_grad():
        for layer in (model.step.posterior, model.step.prior, model.step.write):
            for part in (layer.mean, layer.log_deviation):
                part.gain.zero_()
                part.bias.zero_()
        noise = model.draw_noise(3, StepNumbers(0))
        terms = model(x, None, noise)
        mean, deviation = model.first_canvas.view(2, 1, 3, 1, 1) * LEVELS_PER_UNIT + 128, LEVELS_PER_UNIT * model.first_canvas[3:].exp()
    law = torch.distributions.Normal(mean[0], deviation.view(3, 1, 1))
    assert (terms.kl == 0).all()
    assert torch.allclose(terms.log_prob_x, law.log_prob(x + noise["dequantisation"][0]).sum((1, 2, 3)), rtol=1e-12)
    drawn, value = model.sample(400, seed=0).double(), x.double()
    spread = images(16).double().transpose(0, 1).flatten(1)  # what the model was initialised with
    assert torch.allclose(mean[0].flatten(), spread.mean(1) + 0.5, rtol=1e-6)
    assert ((drawn.mean((0, 2, 3)) - spread.mean(1)).abs() < 6).all() and value.shape[1] == 3


def test_the_canvas_is_the_sum_of_what_the_steps_write():
    model, x = network(), images(2)
    written = []
    model.step.write.register_forward_hook(lambda _, __, out: written.append(out))
    with torch.no_grad():
        pixels, _ = model.draw(model.encode(x), model.draw_noise(2, StepNumbers(0))["latents"])
    assert len(written) == 3
    mean = model.first_canvas[:3].view(1, 3, 1, 1) + sum(F.pixel_shuffle(one.mean, 2) for one in written)
    log_deviation = model.first_canvas[3:].view(1, 3, 1, 1) + sum(F.pixel_shuffle(one.log_deviation, 2) for one in written)
    assert torch.allclose(pixels.mean, 127.5 * mean + 128, rtol=1e-12)
    assert torch.allclose(pixels.log_deviation, log_deviation + math.log(127.5), rtol=1e-12)


def test_generation_does_not_touch_the_encoder_and_inference_does():
    model, x = network(), images(2)
    expected = model.sample(2, seed=0)

    def refuse(*_):
        raise AssertionError("the encoder ran")

    handles = [part.register_forward_pre_hook(refuse) for part in (model.step.encoder, model.step.posterior)]
    assert torch.equal(model.sample(2, seed=0), expected)
    with pytest.raises(AssertionError, match="the encoder ran"):
        model.reconstruct(x)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        for parameter in (*model.step.encoder.parameters(), *model.step.posterior.parameters()):
            parameter.add_(1)
    assert torch.equal(model.sample(2, seed=0), expected)


def test_more_importance_samples_tighten_the_bound():
    model, x = network(), images(4)
    found = iwae_bounds(model, x, x, samples=30, seed=0, batch=7)
    assert (found["iwae"] > found["elbo"]).all() and found["growth"][:, -1].mean() > found["growth"][:, 0].mean()
    pieces = [iwae_bounds(model, x[i : i + 1], x[i : i + 1], samples=30, seed=0, batch=30, first=i)["iwae"] for i in range(4)]
    assert np.allclose(np.concatenate(pieces), found["iwae"], rtol=1e-12)


def test_noise_of_latents_and_values_differs_between_steps_images_and_purposes():
    model = network(latent=3)
    noise = model.draw_noise(2, KeyedNumbers(0, 0, [3, 4]))
    assert [one.shape for one in noise["latents"]] == [(2, 3, 4, 4)] * 3 and noise["dequantisation"][0].shape == (2, 3, 8, 8)
    every = [*noise["latents"], noise["latents"][0].flip(0), torch.special.ndtri(noise["dequantisation"][0])[:, :, :4, :4]]
    correlations = torch.corrcoef(torch.stack([one.flatten() for one in every]))
    assert (correlations - torch.eye(5).double()).abs().max() < 0.5
    assert noise["dequantisation"][0].min() >= 0 and noise["dequantisation"][0].max() < 1


def test_the_deviation_of_a_pixel_has_a_floor():
    model, x = network(), images(2)
    with torch.no_grad():
        model.first_canvas[3:] = -100.0
        pixels, _ = model.draw(model.encode(x), model.draw_noise(2, StepNumbers(0))["latents"])
    assert torch.allclose(pixels.log_deviation.exp(), torch.tensor(LEAST_PIXEL_DEVIATION).double())


def test_figures_show_the_mean_of_the_canvas_and_a_draw_from_it():
    model, x = network(), images(3)
    made = model.figure_images(x, first=0, options=config.Sample(images=3, batch=3, seed=4, completion_rows=2))
    assert set(made) == {"original", "reconstruction", "prior", "prior_sample"}
    assert all(one.dtype == torch.uint8 and one.shape == x.shape for one in made.values())
    assert torch.equal(made["prior_sample"], model.sample(3, seed=4)) and torch.equal(made["reconstruction"], model.reconstruct(x, seed=4))
    assert made["prior_sample"].double().std() > made["prior"].double().std()


def test_checkpointing_changes_memory_only():
    model, x = network().train(), images(2)
    noise, gradients = model.draw_noise(2, StepNumbers(0)), []
    for wanted in (False, True):
        model.checkpoint_activations(wanted)
        model.zero_grad()
        model(x, None, noise).log_prob.sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_training_begins_at_a_sane_value_and_goes_down(kernel):
    model, x = network(16, hidden=8, kernel=kernel).train(), images(8, 16)
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.01)
    losses = []
    for step in range(20):
        loss = -model(x, None, model.draw_noise(8, StepNumbers(0, step))).log_prob.mean()
        losses.append(float(bits_per_dim(loss.detach(), 3 * 16 * 16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[0] < 12 and max(losses[-5:]) < losses[0] - 0.1
