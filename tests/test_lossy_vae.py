"""The lossy autoencoder: its autoregressive prior is a density, and its flows are inverted exactly."""

import math

import pytest
import torch
from torch import nn

from agave.config_networks import LossyVAEModel as Sizes
from agave.models.lossy_vae import AutoregressivePrior, LossyVAE
from agave.random_numbers import StepNumbers


def prior(latent, hidden, flows, strength=3.0):
    """A prior whose flows do much more than they do at the start of a training."""
    torch.manual_seed(0)
    made = AutoregressivePrior(latent, hidden, flows).double()
    for flow in made.flows:
        flow.mean.gain.data += strength
        for layer in (flow.h0, flow.h1, flow.mean):
            layer.bias.data.normal_()
    return made


def log_prob(noise):
    return (-0.5 * noise.square() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


@pytest.mark.parametrize(("latent", "hidden", "flows", "grid"), [(2, 4, 1, 4), (3, 3, 3, 3), (4, 2, 2, 2)])
def test_the_fixed_point_is_the_inverse(latent, hidden, flows, grid):
    made, noise = prior(latent, hidden, flows), torch.randn(5, latent, grid, grid).double()
    with torch.no_grad():
        z = made.from_noise(noise)
        assert (z - noise).abs().max() > 0.5
        assert torch.allclose(made.to_noise(z), noise, atol=1e-10)
        assert torch.allclose(made.from_noise(made.to_noise(noise)), noise, atol=1e-10)


def test_every_flow_is_triangular_and_keeps_volume():
    latent, grid = 3, 3
    made, units = prior(latent, 6, 2), latent * grid * grid
    z = torch.randn(1, latent, grid, grid).double()
    for flow in made.flows:
        jacobian = torch.autograd.functional.jacobian(lambda z, flow=flow: z - flow(z), z).view(latent, grid, grid, latent, grid, grid)
        # reverse raster order, channels ascending inside a pixel
        ordered = jacobian.permute(1, 2, 0, 4, 5, 3).flip(0, 1, 3, 4).reshape(units, units)
        assert (ordered.triu(1) == 0).all() and torch.equal(ordered.diagonal(), torch.ones(units).double())
        assert (ordered.tril(-1) != 0).sum() > units
    whole = torch.autograd.functional.jacobian(made.to_noise, z).view(units, units)
    assert torch.linalg.det(whole).abs() == pytest.approx(1, abs=1e-9)


def test_the_order_is_reversed_between_flows():
    made = prior(2, 4, 2)
    z = torch.randn(1, 2, 3, 3).double()
    by_first = torch.autograd.functional.jacobian(lambda z: made.flows[0](z), z).view(18, 18) != 0
    by_second = torch.autograd.functional.jacobian(lambda z: made.flows[1](z.flip(1, 2, 3)).flip(1, 2, 3), z).view(18, 18) != 0
    assert not (by_first & by_second.T.logical_not()).all() and not (by_first & by_second).any()


def test_the_density_of_two_values_integrates_to_one():
    made, points = prior(2, 2, 2), torch.linspace(-12, 12, 481).double()
    z = torch.cartesian_prod(points, points)[:, :, None, None]
    with torch.no_grad():
        density = torch.exp(log_prob(made.to_noise(z)))
    assert float(density.sum()) * 0.05**2 == pytest.approx(1, abs=1e-6)
    masses = density.view(481, 481) * 0.05**2
    assert (masses - masses.sum(1, keepdim=True) * masses.sum(0)).abs().sum() > 0.05  # the two values are dependent


def test_two_flows_of_the_reference(oracle):
    reference = {name: torch.from_numpy(value) for name, value in oracle("table1/o12_af_prior.npz").items()}

    class Given(nn.Module):
        """A mean that a matrix gives, for one pixel with four channels."""

        def __init__(self, matrix, squash):
            super().__init__()
            self.matrix, self.squash = matrix, squash

        def forward(self, z):
            mean = (torch.tanh(z) if self.squash else z).flatten(1) @ self.matrix.T
            return mean[:, :, None, None]

    made = AutoregressivePrior(4, 4, 2).double()
    made.flows = nn.ModuleList([Given(reference["flow0"], squash=False), Given(reference["flow1"], squash=True)])
    z = reference["z"][:, :, None, None]
    noise = made.to_noise(z)
    assert torch.allclose(noise.flatten(1), reference["eps"], rtol=1e-10, atol=1e-12)
    assert torch.allclose(log_prob(noise), reference["log_prob"], rtol=1e-10)
    assert torch.allclose(made.from_noise(noise), z, atol=1e-10)


def test_free_bits_are_on_the_whole_kl():
    x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    small = {"channels": [4, 4], "latent": 2, "flows": 1, "flow_channels": 4, "decoder": {"sets": 1, "filters": 4, "mixtures": 1}}
    objectives = []
    for free in (0, 1000):
        torch.manual_seed(0)
        model = LossyVAE(Sizes.model_validate(small | {"free_bits": free}), 8)
        terms = model(x, noise=model.draw_noise(4, StepNumbers(0)))
        objectives.append((terms.kl_objective, terms.kl.sum()))
        assert model.needs_whole_batch() == (None if free == 0 else "table1.lossy_vae.free_bits 1000")
    assert objectives[0][0] == objectives[0][1] == objectives[1][1] and objectives[1][0] == 4 * 1000


def test_widths_that_masked_convolutions_cannot_join_are_refused():
    with pytest.raises(ValueError, match="flow_channels 6 and latent 4; accepted: one a multiple of the other"):
        Sizes(latent=4, flow_channels=6)
