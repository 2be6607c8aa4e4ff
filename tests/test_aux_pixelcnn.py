"""Auxiliary PixelCNN: the grey image, two exact sums, a strict bound, and who sees what."""

import itertools
import math

import numpy as np
import pytest
import torch

from agave import config
from agave.evaluation.importance import iwae_bounds
from agave.likelihoods import bits_per_dim
from agave.models import REGISTRY
from agave.models.aux_pixelcnn import AuxiliaryPixelCNN, grey_levels, grey_value
from agave.models.interface import Terms, scale_to_unit
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.random_numbers import StepNumbers
from agave.sampling import sample

OPTIONS = config.Sample(images=3, batch=3, seed=4, completion_rows=2)


def network(size=8, levels=4, resolutions=2, dropout=0.0):
    grey = PixelCNNpp(4, 1, 1, resolutions, dropout=dropout, outputs=levels)
    model = AuxiliaryPixelCNN(grey, PixelCNNpp(6, 1, 2, resolutions, 1, dropout=dropout), levels, size).double()
    model.likelihood_dtype = torch.float64
    model.initialise(images(16, size))
    return model.eval()


def images(count, size=8, seed=1):
    """Smooth images with a little noise."""
    numbers = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 3, 2, 2, generator=numbers) * 255
    smooth = torch.nn.functional.interpolate(corners, size=size, mode="bilinear", align_corners=True)
    return (smooth + 8 * torch.randn(smooth.shape, generator=numbers)).clamp(0, 255).to(torch.uint8)


def test_grey_image_oracle(oracle):
    data = oracle("table1/o7_gray4.npz")
    x = torch.tensor(data["x_uint8"])
    assert np.array_equal(grey_levels(x).squeeze(1).numpy().reshape(data["level4"].shape), data["level4"])
    assert np.array_equal(grey_levels(x, 256).squeeze(1).numpy().reshape(data["gray_uint8"].shape), data["gray_uint8"])


def test_grey_values_are_centres_of_their_levels_and_give_them_back():
    for levels in (1, 2, 16, 128, 256):
        level = torch.arange(levels).view(1, 1, 1, -1)
        shown = grey_value(level, levels)
        assert torch.equal(grey_levels(shown.expand(-1, 3, -1, -1), levels), level)
        middle = (shown.double() + 0.5) - (level + 0.5) * (256 / levels)
        assert middle.abs().max() <= 0.5
    with pytest.raises(ValueError, match="levels 3 does not divide 256"):
        grey_levels(images(1), 3)
    with pytest.raises(ValueError, match=r"accepted: integers \(B, 3, H, W\)"):
        grey_levels(images(1).float())


def test_bound_oracle(oracle):
    data = {name: torch.tensor(value) for name, value in oracle("table1/o13_auxiliary_bound.npz").items()}
    y = data["y_of_x"].long()
    kl, log_prob_x = -data["p_y"].log()[y], data["p_x_given_y"].log()[y, torch.arange(8)]
    terms = Terms(kl, log_prob_x, None, kl.sum())
    assert torch.allclose(terms.log_prob, data["bound"], rtol=1e-10)
    assert (terms.kl >= 0).all() and (terms.log_prob <= data["log_marginal"]).all() and terms.log_prob.exp().sum() < 1


def every_grey_image():
    """All 16 grey images of two levels and 2 x 2 pixels."""
    return torch.tensor(list(itertools.product((0, 1), repeat=4))).view(16, 1, 2, 2)


def test_probabilities_of_all_grey_images_sum_to_one():
    model = network(2, levels=2, resolutions=1)
    with torch.no_grad():
        log_prob = model.log_prob_grey(every_grey_image()).sum((1, 2))
    assert abs(log_prob.exp().sum() - 1) < 1e-12 and log_prob.std() > 0.01


def test_the_bound_is_below_the_likelihood_of_the_model():
    """log p(x) sums over every grey image that x could have been drawn from; the bound has the true one alone."""
    model, x = network(2, levels=2, resolutions=1), images(6, 2)
    every = every_grey_image()
    with torch.no_grad():
        joint = model.log_prob_grey(every).sum((1, 2))[:, None] + torch.stack(
            [model.log_prob_colours(x, one.expand(6, 1, 2, 2)).sum((1, 2)) for one in every.split(1)]
        )
        bound = model(x).log_prob
    assert (bound < torch.logsumexp(joint, dim=0)).all()
    own = (every[:, None] == model.encode(x)[None]).flatten(2).all(2)  # (16, 6): which is the true one
    assert torch.allclose(bound, (joint * own).sum(0), rtol=1e-12)


def test_the_kl_is_minus_the_log_probability_of_the_grey_image():
    model, x = network(), images(5)
    with torch.no_grad():
        terms = model(x)
        assert torch.equal(terms.kl, -model.log_prob_grey(grey_levels(x, 4)).sum((1, 2)))
    assert (terms.kl > 0).all() and terms.log_prob_y is None and torch.equal(terms.kl_objective, terms.kl.sum())


def test_one_level_says_nothing_and_costs_nothing():
    model, x = network(levels=1), images(3)
    with torch.no_grad():
        assert (model(x).kl == 0).all()
        one, other = model.log_prob_colours(x, grey_levels(x, 1)), model.log_prob_colours(x, grey_levels(255 - x, 1))
    assert torch.equal(one, other)


def test_the_network_of_the_grey_image_sees_only_earlier_pixels():
    model = network()
    y = grey_levels(images(1), 4)
    with torch.no_grad():
        before = model.log_prob_grey(y).flatten()
        for place in (0, 9, 30, 63):
            changed = y.clone()
            changed.view(-1)[place] = 3 - changed.view(-1)[place]
            after = model.log_prob_grey(changed).flatten()
            assert torch.equal(before[:place], after[:place]) and not torch.equal(before[place], after[place])


def test_the_network_of_the_colours_sees_earlier_colours_and_all_of_the_grey_image():
    model, x = network(), images(1)
    y = grey_levels(x, 4)
    with torch.no_grad():
        before = model.log_prob_colours(x, y).flatten()
        for place in (9, 30, 63):
            row, column = divmod(place, 8)
            changed = x.clone()
            changed[0, :, row, column] ^= 255
            after = model.log_prob_colours(changed, y).flatten()
            assert torch.equal(before[:place], after[:place]) and not torch.equal(before[place], after[place])
            changed = y.clone()
            changed[0, 0, row, column] = 3 - changed[0, 0, row, column]
            assert not torch.equal(before[:place], model.log_prob_colours(x, changed).flatten()[:place])


def test_the_sampler_of_the_grey_image_reproduces_the_logits_and_the_slow_one():
    model = network()
    y = grey_value(grey_levels(images(3), 4), 4).expand(-1, 3, -1, -1)
    with torch.no_grad():
        expected = model.grey(scale_to_unit(y, torch.float64))
    _, logits = sample(model.grey, batch=3, shape=(8, 8), seed=0, teacher=y, return_logits=True)
    assert (logits - expected).abs().max() < 1e-10
    law = {"batch": 3, "shape": (8, 8), "seed": 3, "law": model.grey_law(1.0)}
    fast = sample(model.grey, **law)
    assert torch.equal(fast, sample(model.grey, **law, cached=False))
    assert len(fast.unique()) > 1 and set(fast.unique().tolist()) <= {32, 96, 160, 224}


def test_grey_levels_are_drawn_as_often_as_they_are_probable():
    model = network(2, levels=4, resolutions=1)
    count = 4000
    with torch.no_grad():
        expected = model.grey(torch.zeros(1, 3, 2, 2, dtype=torch.float64)).softmax(1)[0, :, 0, 0]
    found = (
        grey_levels(sample(model.grey, batch=count, shape=(2, 2), seed=0, law=model.grey_law(1.0)), 4)[:, 0, 0, 0].bincount(minlength=4)
        / count
    )
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt()).all()
    cold = sample(model.grey, batch=20, shape=(2, 2), seed=0, law=model.grey_law(1e-9))
    assert len(cold.unique(dim=0)) == 1  # nothing is left to chance


def test_figures_show_the_grey_image_and_colours_drawn_given_it():
    model, x = network(), images(3)
    made = model.figure_images(x, first=0, options=OPTIONS)
    assert set(made) == {"original", "reconstruction", "reconstruction_sample", "prior", "prior_sample"}
    assert all(one.dtype == torch.uint8 and one.shape == x.shape for one in made.values())
    assert torch.equal(made["reconstruction"], model.reconstruct(x)) and torch.equal(made["prior_sample"], model.sample(3, seed=4))
    for name in ("reconstruction", "prior"):
        assert torch.equal(made[name], made[name][:, :1].expand(-1, 3, -1, -1))
    assert torch.equal(grey_levels(made["reconstruction"], 4), grey_levels(x, 4))
    assert not torch.equal(made["reconstruction_sample"], made["prior_sample"])


def test_more_importance_samples_change_nothing():
    assert not REGISTRY["aux_pixelcnn"].has_samples
    assert [name for name in ("agave", "vae_iaf", "pixelcnn_pp") if REGISTRY[name].has_samples] == ["agave", "vae_iaf"]
    model, x = network(), images(2)
    found = iwae_bounds(model, x, x, samples=3, seed=0, batch=2)
    with torch.no_grad():
        expected = model(x).log_prob.numpy()
    for values in found.values():
        assert np.allclose(values, expected if values.ndim == 1 else expected[:, None], rtol=1e-12)


def test_masks_of_both_networks_are_part_of_the_noise():
    model, x = network(dropout=0.5).train(), images(4)
    noise = model.draw_noise(4, StepNumbers(0))
    assert set(noise) == {"grey_dropout", "colour_dropout"} and all(noise.values())
    with torch.no_grad():
        whole, other = model(x, None, noise), model(x, None, model.draw_noise(4, StepNumbers(1)))
        alone = model(x[1:2], None, {name: [one[1:2] for one in masks] for name, masks in noise.items()})
    assert torch.allclose(whole.log_prob[1], alone.log_prob[0], rtol=1e-12)
    assert not torch.equal(whole.kl, other.kl) and not torch.equal(whole.log_prob_x, other.log_prob_x)


def test_training_begins_at_a_sane_value_and_goes_down():
    model, x = network(16, levels=16), images(32, 16)
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.01)
    losses = []
    for step in range(20):
        loss = -model(x[4 * (step % 8) :][:4]).log_prob.mean()
        losses.append(float(bits_per_dim(loss.detach(), 3 * 16 * 16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[0] < 12 and sum(losses[-5:]) / 5 < losses[0] - 0.3 and math.isfinite(losses[-1])
