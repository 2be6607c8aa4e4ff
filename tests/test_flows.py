"""NICE and Real NVP: exact inverses, log-determinants against the Jacobian of autograd, constants, closed forms, integrals."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import agave
from agave import config, config_checks
from agave.errors import UserError
from agave.evaluation.importance import iwae_bounds
from agave.evaluation.memory import evaluation_cost
from agave.evaluation.one_sample import one_sample_terms
from agave.grid import Cell
from agave.likelihoods import bits_per_dim
from agave.models import make_model
from agave.models.couplings import AffineCoupling, ChannelCoupling, CheckerboardCoupling, Couplings
from agave.models.nice import NICE, AdditiveCouplings
from agave.models.real_nvp import MultiScaleFlow, RealNVP, logit
from agave.models.squeezing import checkerboard, ordered_squeeze, ordered_unsqueeze, squeeze
from agave.models.whitening import fit_whitening
from agave.objective import Objective
from agave.planning import network_costs, plan
from agave.planning.summary import _saved_bytes
from agave.random_numbers import POSTERIOR, KeyedNumbers, StepNumbers
from agave.runtime.checkpoints import RollingState
from agave.runtime.devices import Place
from agave.steps.prepare import prepare
from agave.training.job import TrainingJob
from agave.training.loop import Trainer

SYSTEMS = ("nice", "real_nvp")
ROUNDING = {"rtol": 0, "atol": 1e-9}


@pytest.fixture(scope="module")
def document(root):
    return config.read(root / "params.yaml")


def small(document, preset="tiny", systems=(), **sizes):
    """A preset with small flows."""
    params = config.resolve(document, preset)
    blocks = {
        "nice": {"hidden": 16, "hidden_layers": 2, "ridge": 1e-3},
        "real_nvp": {"channels": 4, "blocks": 1, "scales": 2},
    }
    own = {name: params.table1.sizes(name).model_copy(update=block | sizes.get(name, {})) for name, block in blocks.items()}
    return params.model_copy(update={"table1": params.table1.model_copy(update={**own, "systems": list(systems)})})


def images(count, size):
    """Smooth coloured images with noise: there is something to learn, and no pixel is constant."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.randint(40, 200, (count, 3, 2, 2), generator=generator)
    smooth = nn.functional.interpolate(corners.float(), size=size, mode="bilinear")
    return (smooth + torch.randint(0, 20, (count, 3, size, size), generator=generator)).to(torch.uint8)


def perturbed(model):
    """The model in float64 with every parameter moved, so that no coupling is the identity."""
    model = model.double()
    model.likelihood_dtype = torch.float64
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def flow_of(system, size, scales=2):
    torch.manual_seed(0)
    x = images(40, size)
    model = NICE(size, 7, 2, 1e-3).double() if system == "nice" else RealNVP(size, scales, 3, 1, 0.05).double()
    model.initialise(x)
    return perturbed(model), x


# Real NVP's parts against reference numbers


def test_the_logit_is_that_of_the_reference(oracle):
    o = oracle("table1/o1_dequantise_logit.npz")
    v = torch.from_numpy(o["x_uint8"]).double() + torch.from_numpy(o["u"])
    y, log_det = logit(v, float(o["alpha"]))
    assert np.allclose(y, o["y_code"], rtol=1e-12) and np.allclose(log_det, o["log_det_code"], rtol=1e-12)
    nats = 0.5 * (y**2 + math.log(2 * math.pi)).flatten(1).sum(1) - log_det
    assert np.allclose(nats, o["nll_nats_code"], rtol=1e-12)
    assert np.allclose(bits_per_dim(nats, 48), o["bits_per_dim_code"], rtol=1e-12)


def test_masks_and_squeezes_are_those_of_the_reference(oracle):
    o = oracle("table1/o2_squeeze_masks.npz")
    x = torch.from_numpy(o["x"])
    kept, factored = ordered_squeeze(x)
    assert np.array_equal(checkerboard(4, 4, odd=True), o["checkerboard_odd"]) and np.array_equal(squeeze(x), o["squeeze"])
    assert np.array_equal(kept, o["kept"]) and np.array_equal(factored, o["factored"])
    assert np.array_equal(torch.cat((kept, factored), 1), o["ordered"])


class Linear(nn.Module):
    """The network of the reference: r = seen Ws, t = seen Wt."""

    def __init__(self, weights, channels):
        super().__init__()
        self.weights, self.channels = weights, channels

    def forward(self, given):
        seen = given[:, : self.channels]
        return torch.cat([(seen.flatten(1) @ weight).reshape(seen.shape) for weight in self.weights], dim=1)


def test_an_affine_coupling_and_its_first_normalisation_are_those_of_the_reference(oracle):
    o = {name: torch.from_numpy(np.asarray(value)) for name, value in oracle("table1/o3_affine_coupling.npz").items()}
    assert torch.equal(o["mask"][0], checkerboard(4, 4, odd=True).double())
    coupling = CheckerboardCoupling(o["mask"][0], 2, 3, 1).double()
    coupling.network = Linear((o["Ws"], o["Wt"]), 2)
    with torch.no_grad():
        coupling.limit.copy_(o["scale"])
        y, log_det = coupling(o["x"])
        assert torch.allclose(y, o["y_shift_then_scale"], rtol=1e-12) and torch.allclose(log_det, o["log_det"], rtol=1e-12)
        assert torch.allclose(coupling.inverse(y), o["x"], **ROUNDING)
        coupling.norm.initialising = True
        normed, log_det_normed = coupling(o["x"])
        coupling.norm.initialising = False
        assert torch.allclose(normed, o["y_bn_half"], **ROUNDING)
        assert torch.allclose(log_det_normed - log_det, o["log_det_bn_half"].expand(2), **ROUNDING)
        assert torch.allclose(coupling.inverse(normed), o["x"], **ROUNDING)


def test_masks_are_complements_and_squeezes_are_inverted():
    assert torch.equal(checkerboard(4, 6, odd=True) + checkerboard(4, 6, odd=False), torch.ones(4, 6))
    x = torch.arange(2 * 3 * 6 * 4).reshape(2, 3, 6, 4)
    kept, factored = ordered_squeeze(x)
    assert torch.equal(ordered_unsqueeze(kept, factored), x)
    even = x[:, :, checkerboard(6, 4, odd=False) == 1]
    assert torch.equal(kept.flatten(1).sort(1).values, even.flatten(1).sort(1).values)  # one colour of the board


# NICE against reference numbers


def test_nice_is_that_of_the_reference(oracle):
    o = {name: torch.from_numpy(np.asarray(value)) for name, value in oracle("table1/o4_nice.npz").items()}
    model = NICE(2, 5, 1, 1e-3).double()
    model.flow = AdditiveCouplings(6, 5, 1).double()
    model.mean, model.whitening, model.log_det_whitening = o["mean"], o["zca"], o["log_det_zca"]
    with torch.no_grad():
        for k, m in enumerate(model.flow.couplings):
            for layer, weight, bias in ((m.hidden[0], "w1", "b1"), (m.out, "w2", "b2")):
                layer.weight.copy_(o[weight][k].T)
                layer.bias.copy_(o[bias][k])
        model.flow.log_scale.copy_(o["log_scale"])
        v = o["x_uint8"].double() + o["u"]
        y, log_det = model.standardise(v)
        assert torch.allclose(model.flow(y)[0], o["h"], rtol=1e-10)
        nats = model.log_density(v)
    assert torch.allclose(nats, o["log_likelihood_levels"], rtol=1e-10)
    assert torch.allclose(bits_per_dim(-nats, 6), o["bits_per_dim"], rtol=1e-10)
    assert log_det - o["log_det_zca"] == pytest.approx(-6 * 7 * math.log(2))  # units of [-1, 1] are seven bits off


def test_the_published_number_is_that_of_the_table():
    """5371.78 nats in units of [-1, 1], published with the architecture, are the 4.48 of later tables in level units."""
    _, log_det = NICE(32, 1, 1, 1e-3).standardise(torch.zeros(1, 3, 32, 32))
    assert bits_per_dim(-(5371.78 + float(log_det)), 3072) == pytest.approx(4.4773, abs=5e-5)


def test_a_uniform_density_has_eight_bits():
    """A standard logistic over the logit without a margin is uniform in [0, 256)."""
    y, log_det = logit(256 * torch.rand(4, 3, 2, 2, dtype=torch.float64), 1e-13)
    nats = (nn.functional.logsigmoid(y) + nn.functional.logsigmoid(-y)).flatten(1).sum(1) + log_det
    assert torch.allclose(bits_per_dim(-nats, 12), torch.tensor(8.0, dtype=torch.float64), rtol=1e-9)


# invariants of both


@pytest.mark.parametrize(("system", "size", "scales"), [("nice", 2, 0), ("nice", 4, 0), ("real_nvp", 4, 2), ("real_nvp", 8, 3)])
def test_the_map_is_inverted(system, size, scales):
    model, x = flow_of(system, size, scales)
    with torch.no_grad():
        v = x.double() + torch.rand(x.shape, dtype=torch.float64)
        y, _ = model.standardise(v)
        z, _ = model.flow(y)
        assert z.shape == (len(x), 3 * size**2)
        assert (model.flow.inverse(z) - y).abs().max() < 1e-9
        assert (model.to_levels(model.flow.inverse(z)) - v).abs().max() < 1e-9


@pytest.mark.parametrize(("system", "size", "scales"), [("nice", 2, 0), ("real_nvp", 4, 2), ("real_nvp", 4, 1)])
def test_the_log_determinant_is_that_of_the_jacobian(system, size, scales):
    model, x = flow_of(system, size, scales)
    v = x[:2].double() + 0.3
    for one in v.split(1):
        jacobian = torch.autograd.functional.jacobian(lambda v: model.flow(model.standardise(v)[0])[0].flatten(), one)
        expected = torch.linalg.slogdet(jacobian.reshape(3 * size**2, -1)).logabsdet
        with torch.no_grad():
            y, log_det_data = model.standardise(one)
            assert float(model.flow(y)[1] + log_det_data) == pytest.approx(float(expected), rel=1e-10)


def test_log_determinants_add_up_and_half_of_the_values_leave_after_a_scale():
    model, x = flow_of("real_nvp", 8)
    flow = model.flow
    with torch.no_grad():
        y, _ = model.standardise(x[:3].double() + 0.5)
        z, log_det = flow(y)
        first, of_first = flow.scales[0](y)
        kept, factored = ordered_squeeze(first)
        last, of_last = flow.scales[1](kept)
        pixels, of_pixels = flow.scales[0].pixels(y)
        _, of_channels = flow.scales[0].channels(squeeze(pixels))
    assert torch.equal(z, torch.cat((factored.flatten(1), last.flatten(1)), 1))
    assert torch.allclose(log_det, of_first + of_last, **ROUNDING) and torch.allclose(of_first, of_pixels + of_channels, **ROUNDING)


@pytest.mark.parametrize("kind", ["even", "odd", "first", "second"])
def test_what_passes_a_coupling_is_unchanged(kind):
    torch.manual_seed(0)
    if kind in ("even", "odd"):
        coupling = CheckerboardCoupling(checkerboard(4, 4, kind == "odd"), 2, 3, 1)
        passes = checkerboard(4, 4, kind == "odd").bool().expand(2, 4, 4)
    else:
        coupling = ChannelCoupling(kind == "first", 2, 3, 1)
        passes = torch.tensor([kind == "first", kind == "second"])[:, None, None].expand(2, 4, 4)
    coupling = perturbed(SimpleModule(coupling)).inner
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    y, _ = coupling(x)
    assert torch.equal(y[:, passes], x[:, passes]) and (y[:, ~passes] != x[:, ~passes]).all()
    jacobian = torch.autograd.functional.jacobian(lambda x: coupling(x)[0], x[:1])[0, :, :, :, 0]
    between_free = jacobian[~passes][:, ~passes]
    assert torch.equal(between_free, torch.diag(between_free.diagonal()))  # a free value never sees another one


class SimpleModule(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


def test_nice_without_couplings_is_a_logistic_of_whitened_images():
    x = images(60, 4)
    model = NICE(4, 8, 1, 1e-3).double()
    model.initialise(x)
    for m in model.flow.couplings:
        nn.init.zeros_(m.out.weight)
    v = x.double() + 0.25
    flat = (v.flatten(1) / 128 - 1).numpy()
    covariance = np.cov(x.flatten(1).double().numpy().T / 128, bias=True) + (1e-3 + 1 / 12 / 128**2) * np.eye(48)
    variance, directions = np.linalg.eigh(covariance)
    z = (flat - ((x.flatten(1).double() + 0.5) / 128 - 1).mean(0).numpy()) @ (directions / np.sqrt(variance)) @ directions.T
    expected = -(2 * np.logaddexp(0, z) - z).sum(1) - 0.5 * np.log(variance).sum() - 48 * math.log(128)
    with torch.no_grad():
        assert np.allclose(model.log_density(v), expected, rtol=1e-10)
        before = model.flow(model.standardise(v)[0])[1]
        model.flow.log_scale += 0.5
        assert float(model.flow(model.standardise(v)[0])[1] - before) == pytest.approx(0.5 * 48)


def test_real_nvp_without_couplings_is_a_normal_of_the_logit():
    model = RealNVP(4, 2, 3, 1, 0.05).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, AffineCoupling):
                module.network.out.gain.zero_()  # s = t = 0
    v = images(5, 4).double() + 0.25
    p = 0.05 + 0.9 * v / 256
    y = torch.log(p / (1 - p))
    log_slope = torch.log(0.9 / 256 / (p * (1 - p)))
    expected = (log_slope - 0.5 * y**2 - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
    with torch.no_grad():
        assert torch.allclose(model.log_density(v), expected, rtol=1e-12)


def integral(flow, log_prior, standardise, edges):
    """The integral of the density of two values, by the midpoint rule between the edges."""
    middle, width = (edges[1:] + edges[:-1]) / 2, edges.diff()
    with torch.no_grad():
        y, log_det_data = standardise(torch.cartesian_prod(middle, middle))
        z, log_det = flow(y)
        density = torch.exp(log_prior(z.flatten(1)).sum(1) + log_det + log_det_data)
    return float((density * torch.cartesian_prod(width, width).prod(1)).sum())


def test_densities_of_two_values_integrate_to_one():
    torch.manual_seed(3)
    flow, edges = perturbed(AdditiveCouplings(2, 3, 1)), torch.linspace(-50, 50, 601, dtype=torch.float64)
    assert integral(flow, NICE(2, 1, 1, 1e-3).log_prior, lambda v: (v, 0.0), edges) == pytest.approx(1, abs=1e-4)
    model = RealNVP(4, 1, 1, 1, 0.05)
    flow = perturbed(Couplings(CheckerboardCoupling(checkerboard(1, 2, odd), 1, 3, 1) for odd in (False, True, False)))

    def standardise(v):
        y, log_det = logit(v, 0.05)
        return y.reshape(-1, 1, 1, 2), log_det

    edges = model.to_levels(torch.linspace(-14, 14, 401, dtype=torch.float64))  # p near 0 to p near 1
    assert integral(flow, model.log_prior, standardise, edges) == pytest.approx(1, abs=1e-4)


# the whitening


def test_whitened_images_have_unit_covariance():
    x = images(400, 4)
    mean, whitening, log_det = fit_whitening(x, 1e-12)
    assert torch.allclose(whitening, whitening.T, rtol=1e-9)
    noisy = (x.flatten(1).double().repeat(100, 1) + torch.rand(40_000, 48, dtype=torch.float64)) / 128 - 1
    assert torch.allclose(torch.cov(((noisy - mean) @ whitening).T), torch.eye(48, dtype=torch.float64), atol=0.03)
    assert float(log_det) == pytest.approx(float(torch.linalg.slogdet(whitening).logabsdet), rel=1e-10)


def test_a_ridge_makes_up_for_missing_images():
    x = images(10, 4)  # they span at most nine of 48 directions
    mean, whitening, log_det = fit_whitening(x, 1e-3)
    largest = torch.linalg.eigvalsh(whitening)[-1]
    assert float(largest) == pytest.approx((1e-3 + 1 / 12 / 128**2) ** -0.5, rel=1e-6) and torch.isfinite(log_det)
    assert torch.isfinite(mean).all()


def test_the_whitening_depends_on_neither_order_nor_pieces(monkeypatch):
    x = images(50, 4)
    whole = fit_whitening(x, 1e-3)
    monkeypatch.setattr("agave.models.whitening.PIECE", 7)
    assert all(torch.equal(a, b) for a, b in zip(whole, fit_whitening(x.flip(0), 1e-3), strict=True))


def test_odd_numbers_of_values_and_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="75 values; accepted: an even number"):
        NICE(5, 2, 1, 1e-3)
    with pytest.raises(ValueError, match="accepted: multiples of 8"):
        MultiScaleFlow(12, 3, 2, 1)


# noise, bounds, samples


def test_the_noise_is_uniform_in_training_and_evaluation():
    model = RealNVP(32, 1, 1, 1, 0.05)
    for numbers in (StepNumbers(0), KeyedNumbers(0, POSTERIOR, range(40))):
        (u,) = model.draw_noise(40, numbers)["dequantisation"]
        assert u.shape == (40, 3, 32, 32) and float(u.min()) >= 0 and float(u.max()) < 1
        ordered = u.flatten().double().sort().values
        assert (ordered - torch.arange(len(ordered)) / len(ordered)).abs().max() < 1.63 / len(ordered) ** 0.5  # Kolmogorov-Smirnov, 1 %


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_bound_rises_with_importance_samples_of_the_noise(system, document):
    torch.manual_seed(0)
    model = make_model(system, small(document), 16)
    x = images(12, 16)
    model.initialise(x)
    model.eval().likelihood_dtype = torch.float64
    found = iwae_bounds(model, x[:3], x[:3], samples=6, seed=0, batch=4)
    whole = iwae_bounds(model, x[:3], x[:3], samples=6, seed=0, batch=6)
    assert (found["iwae"] > found["elbo"]).all() and np.allclose(found["iwae"], whole["iwae"], rtol=1e-6)
    terms = one_sample_terms(model, x[:3], x[:3], seed=0, batch=3)
    assert set(terms) == {"kl", "log_prob_x"} and np.allclose(terms["log_prob_x"], found["growth"][:, 0], rtol=1e-6)
    assert terms["log_prob_x"].dtype == np.float64


@pytest.mark.parametrize("system", SYSTEMS)
def test_draws_are_like_the_images_that_the_model_was_fitted_to(system):
    """Both know mean and scale of the data after the initialisation; draws at the edges of the range are clipped."""
    torch.manual_seed(0)
    x = images(400, 4)
    model = NICE(4, 4, 1, 1e-3) if system == "nice" else RealNVP(4, 1, 4, 1, 0.05)
    model.initialise(x)
    drawn = model.sample(300, seed=0).double()
    assert float(drawn.mean() - x.double().mean()) == pytest.approx(0, abs=8)
    assert float(drawn.std() / x.double().std()) == pytest.approx(1.8 / 1 if system == "nice" else 1, rel=0.35)


# training


@pytest.mark.parametrize("system", SYSTEMS)
def test_training_starts_below_twelve_bits_and_lowers_the_loss(system, document, tmp_path):
    params = small(document)
    torch.manual_seed(0)
    model = make_model(system, params, 16)
    x = images(64, 16)
    model.initialise(x)
    options = params.joint.model_copy(update={"steps": 20, "batch": 16, "learning_rate": 0.003, "warmup_steps": 0})
    state = RollingState(tmp_path)
    result = Trainer(model, x, x, Objective(1.0), options, seed=0, state=state).run()
    state.close()
    totals = [row["total"] for row in result.history]
    assert totals[0] < 12 and np.mean(totals[-5:]) < np.mean(totals[:5]) - 0.02 and result.skipped == 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_half_precision_reaches_the_inside_of_the_networks_alone(system, document):
    torch.manual_seed(0)
    model = make_model(system, small(document), 16)
    x = images(8, 16)
    model.initialise(x)
    noise = model.draw_noise(8, StepNumbers(0))
    for m in model.flow.couplings if system == "nice" else ():
        nn.init.normal_(m.out.weight)

    def value():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(x, None, noise).log_prob
        with torch.no_grad():
            return half, model(x, None, noise).log_prob

    half, full = value()
    assert half.dtype == torch.float32 and torch.allclose(half, full, rtol=1e-2) and not torch.equal(half, full)
    for module in model.modules():  # networks that return zero: whitening, logit, scales and prior are left
        if isinstance(module, nn.Linear) and system == "nice":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, AffineCoupling):
            nn.init.zeros_(module.network.out.gain)
    half, full = value()
    assert torch.equal(half, full)


def test_activations_can_be_computed_again_in_the_backward_pass(document):
    torch.manual_seed(0)
    model = make_model("real_nvp", small(document), 16)
    x = images(4, 16)
    model.initialise(x)
    noise, gradients = model.draw_noise(4, StepNumbers(0)), []
    for again in (False, True):
        model.zero_grad()
        model.checkpoint_activations(again)
        model(x, None, noise).log_prob.sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_nice_is_whitened_with_all_training_images_and_loads_as_it_was(document, tmp_path):
    params = small(document, systems=["nice"])
    np.savez(tmp_path / "images.npz", images=images(160, 16).permute(0, 2, 3, 1).numpy())
    prepare(params, tmp_path, tmp_path / "images.npz")
    array = np.load(tmp_path / "train.npy")
    training = params.table1.training.model_copy(update={"steps": 2, "batch": 4, "init_images": 3, "warmup_steps": 0})
    cell = Cell("nice", resolution=16)
    TrainingJob("joint", params, cell, training, 0, tmp_path, tmp_path / "out", Place(tmp_path / "state", device="cpu")).run()
    model = agave.load(tmp_path / "out" / "model.safetensors")
    flat = array.transpose(0, 3, 1, 2).reshape(len(array), -1).astype(float)
    assert np.allclose(model.mean, (flat.mean(0) + 0.5) / 128 - 1, atol=1e-6)
    _, whitening, log_det = fit_whitening(torch.from_numpy(array).permute(0, 3, 1, 2), 1e-3)
    assert torch.equal(model.whitening, whitening.float()) and model.log_det_whitening == log_det
    assert json.loads((tmp_path / "out" / "run.json").read_text())["parameters"] == sum(p.numel() for p in model.parameters())
    raw = agave.load(tmp_path / "out" / "raw.safetensors")
    assert torch.equal(raw.whitening, model.whitening) and not torch.equal(raw.flow.log_scale, model.flow.log_scale)


# parameters and costs


def test_sizes_that_do_not_fit_are_refused_before_anything_runs(document, monkeypatch):
    changed = {**document, "tiny": {**document["tiny"], "table1": {"systems": ["real_nvp"], "real_nvp": {"scales": 5}}}}
    with pytest.raises(UserError, match=r"prepare.image_size 16 is not divisible by 32, which table1.real_nvp.scales needs"):
        config.resolve(changed, "tiny")
    config.resolve(
        {**changed, "tiny": {**changed["tiny"], "table1": {"systems": [], "real_nvp": {"scales": 5}}}}, "tiny"
    )  # it is not trained
    config_checks.check_whitening(16)
    monkeypatch.setattr(config_checks, "os", SimpleNamespace(sysconf=lambda name: 2**14))  # a machine of 256 MiB
    paper = {**document["paper"], "table1": {**document["paper"]["table1"], "systems": []}}  # whose images are larger
    wide = {**document, "paper": paper, "demo": {}, "tiny": {**document["tiny"], "table1": {"systems": ["nice"]}}}
    config.resolve(wide, "tiny")
    wide["tiny"]["prepare"] = {"source": "photos", "image_size": 32}
    with pytest.raises(UserError, match=r"image_size 32: the whitening of nice takes 0.352 GiB .* has 0.25; accepted here: at most 28 pix"):
        config.resolve(wide, "tiny")
    model = NICE(32, 1, 1, 1e-3)
    with pytest.raises(UserError, match="the whitening of nice takes"):
        model.initialise(images(2, 32))


COUNTED = [
    ("paper", "nice", {}, 72_617_216, None),
    ("paper", "nice", {"hidden": 256, "hidden_layers": 1}, 3_155_968, 12_582_912),
    ("tiny", "nice", {"hidden": 5, "hidden_layers": 3}, None, None),
    ("paper", "real_nvp", {"scales": 2, "channels": 64, "blocks": 8}, 19_609_596, 6_459_555_840),
    ("paper", "real_nvp", {"channels": 16, "blocks": 1}, 193_100, None),
    ("paper", "real_nvp", {"channels": 16, "blocks": 2}, 345_516, None),
    ("tiny", "real_nvp", {"scales": 3, "channels": 8, "blocks": 2}, None, None),
    ("tiny", "real_nvp", {"scales": 1, "channels": 3, "blocks": 4}, None, None),
]


@pytest.mark.parametrize(("preset", "system", "sizes", "parameters", "multiply_adds"), COUNTED)
def test_costs_are_those_of_the_networks(document, preset, system, sizes, parameters, multiply_adds):
    published = {"nice": {"hidden": 2000, "hidden_layers": 4}, "real_nvp": {}}[system]
    params = small(document, preset, **{system: published | sizes})
    params = params.model_copy(update={"compute": params.compute.model_copy(update={"precision": "float32"})})
    size, cell = params.prepare.image_size, Cell(system, resolution=params.prepare.image_size)
    with torch.device("meta"):
        model = make_model(system, params, size)
        x = torch.zeros(2, 3, size, size, dtype=torch.uint8)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(x[:1])
        kept = _saved_bytes(model, x) - _saved_bytes(model, x[:1])
    counted = sum(network_costs.parameters(params, cell).values())
    assert counted == sum(parameter.numel() for parameter in model.parameters()) and parameters in (None, counted)
    assert sum(network_costs.multiply_adds(params, cell).values()) == counter.get_total_flops() // 2
    assert multiply_adds in (None, counter.get_total_flops() // 2)
    assert network_costs.kept_bytes(params, cell) == pytest.approx(kept, rel=0.25)
    model.eval().likelihood_dtype = torch.float64
    assert 0.5 < network_costs.working_bytes(params, cell) / evaluation_cost(model).per_row * 1.5 < 2


def test_the_whitening_is_part_of_the_memory_of_jobs_and_evaluations(document):
    params = small(document, "demo")
    matrix = 4 * 3072**2
    nice, real_nvp = (plan.job(params, "joint_cell", Cell(system, resolution=32)) for system in SYSTEMS)
    assert nice.host_memory - real_nvp.host_memory > 4 * 2 * matrix
    assert evaluation_cost(make_model("nice", params, 32)).fixed > 2 * matrix
