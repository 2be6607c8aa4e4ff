import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agave import likelihoods as L

LEVELS = [256, 128, 64, 32, 16, 8, 4, 2]
DTYPES = [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tails", "name"), [(True, "tail"), (False, "eq8")])
def test_discretized_logistic_oracle(oracle, dtype, tails, name):
    data = oracle("c_quantised_logistic.npz")
    mean, log_scale = (torch.tensor(data[k])[:, None].to(dtype) for k in ("mu", "log_s"))
    for levels in data["levels"].tolist():
        y = (torch.arange(levels) * (256 // levels))[None]
        expected = torch.tensor(data[f"logp_{name}_b{levels}"])
        error = (L.discretized_logistic_log_prob(y, mean, log_scale, levels, tails) - expected).abs()
        if dtype == torch.float32:
            error = error / (1 + expected.abs())
        assert error.max() < (1e-10 if dtype == torch.float64 else 3e-5)


def test_discretized_logistic_gradient_oracle(oracle):
    data = oracle("c_quantised_logistic.npz")
    for levels in data["levels"].tolist():
        mean = torch.tensor(data["mu"]).requires_grad_()
        value = L.discretized_logistic_log_prob(torch.tensor(data["y"]), mean, torch.tensor(data["log_s"]), levels)
        assert torch.allclose(value, torch.tensor(data[f"pick_b{levels}"]), rtol=0, atol=1e-10)
        (gradient,) = torch.autograd.grad(value.sum(), mean)
        assert torch.allclose(gradient, torch.tensor(data[f"dlogp_dmu_b{levels}"]), rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=50)
@given(st.floats(-1e4, 1e4), st.floats(-7, 8), st.sampled_from(LEVELS))
def test_levels_sum_to_one_and_coarse_bins_are_sums_of_fine_bins(mean, log_scale, levels):
    mean, log_scale = (torch.tensor([v], dtype=torch.float64) for v in (mean, log_scale))
    fine = L.discretized_logistic_log_prob(torch.arange(256), mean, log_scale).exp()
    coarse = L.discretized_logistic_log_prob(torch.arange(levels) * (256 // levels), mean, log_scale, levels).exp()
    assert abs(coarse.sum().item() - 1) < 1e-12
    assert torch.allclose(fine.view(levels, -1).sum(1), coarse, rtol=0, atol=1e-13)
    literal = L.discretized_logistic_log_prob(torch.arange(256), mean, log_scale, tails=False).exp()
    lost = 1 - (torch.sigmoid((256 - mean) / log_scale.exp()) - torch.sigmoid(-mean / log_scale.exp()))
    assert torch.allclose(literal.sum(), 1 - lost.sum(), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=200)
@given(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.integers(0, 255),
    st.sampled_from([*LEVELS, 1]),
    st.booleans(),
)
def test_discretized_logistic_is_finite_with_finite_gradient(mean, log_scale, y, levels, tails):
    parameters = [torch.tensor([v], requires_grad=True) for v in (mean, log_scale)]
    value = L.discretized_logistic_log_prob(torch.tensor([y]), *parameters, levels, tails)
    value.sum().backward()
    assert torch.isfinite(value).all() and value.item() <= 0
    assert all(torch.isfinite(p.grad).all() for p in parameters)


def test_discretized_logistic_one_level_costs_nothing():
    y = torch.arange(256)
    assert (L.discretized_logistic_log_prob(y, torch.zeros(1), torch.zeros(1), 1) == 0).all()


@pytest.mark.parametrize("levels", [0, 3, 48, 512, -2])
def test_levels_that_do_not_divide_256_are_refused(levels):
    with pytest.raises(ValueError, match=f"levels {levels} does not divide 256"):
        L.discretized_logistic_log_prob(torch.arange(2), torch.zeros(1), torch.zeros(1), levels)


def test_images_that_are_not_integers_are_refused():
    with pytest.raises(ValueError, match="float32; accepted: an integer type"):
        L.discretized_logistic_log_prob(torch.zeros(2), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="accepted: integers"):
        L.mixture_log_prob(torch.zeros(1, 10, 2, 2), torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="multiple of 10"):
        L.mixture_log_prob(torch.zeros(1, 12, 2, 2), torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_mixture_oracle(oracle, dtype):
    data = oracle("b_mixture_logistic.npz")
    logits, x = torch.tensor(data["logits"]).to(dtype), torch.tensor(data["x_uint8"])
    exact = (L.mixture_log_prob(logits, x) - torch.tensor(data["logp_exact"])).abs().amax((1, 2))
    published = (L.mixture_log_prob_thresholded(logits, x) - torch.tensor(data["logp_threshold"])).abs().amax((1, 2))
    if dtype == torch.float64:
        assert exact.max() < 1e-9 and published.max() < 1e-8
    else:
        tolerance = torch.full((6,), 1e-4)
        tolerance[1] = 1e-3  # log-probabilities of thousands of nats
        assert (exact < tolerance).all()


def random_logits(batch, mixtures, size, dtype=torch.float64):
    logits = torch.randn(batch, 10 * mixtures, size, size, dtype=dtype)
    logits[:, mixtures:] *= 1.5
    return logits


def all_colours(red):
    """The 65,536 colours with this red, (65536, 3, 1, 1)."""
    others = torch.cartesian_prod(torch.arange(256), torch.arange(256))
    return torch.cat((torch.full((len(others), 1), red), others), dim=1).view(-1, 3, 1, 1)


@pytest.mark.parametrize("red", [0, 77, 255])
def test_green_and_blue_sum_out(red):
    """With one component, summing over green and blue leaves the discretized logistic of red."""
    logits = random_logits(1, 1, 1)
    log_prob = L.mixture_log_prob(logits.expand(256**2, -1, -1, -1), all_colours(red))
    _, means, log_scales, _ = L.split_logits(logits)
    mean, log_scale = (127.5 * means[:, 0] + 128).flatten(), (log_scales[:, 0].clamp(min=-7) + math.log(127.5)).flatten()
    expected = L.discretized_logistic_log_prob(torch.tensor([red]), mean, log_scale)
    assert torch.allclose(torch.logsumexp(log_prob.flatten(), 0), expected.squeeze(), rtol=0, atol=1e-9)


def test_mixture_sums_to_one_over_all_colours():
    logits = random_logits(1, 2, 1)
    total = sum(L.mixture_log_prob(logits.expand(256**2, -1, -1, -1), all_colours(red)).exp().sum().item() for red in range(256))
    assert abs(total - 1) < 1e-10


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
def test_mixture_is_finite_with_finite_gradient(seed, spread):
    generator = torch.Generator().manual_seed(seed)
    logits = (spread * torch.randn(2, 20, 3, 3, generator=generator)).requires_grad_()
    x = torch.randint(0, 256, (2, 3, 3, 3), generator=generator)
    x[:, :, 0], x[:, :, 1, 0] = 0, 255
    value = L.mixture_log_prob(logits, x)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(logits.grad).all()


def test_mixture_of_half_precision_is_computed_in_float32():
    logits = random_logits(1, 2, 4, torch.float32).bfloat16()
    x = torch.randint(0, 256, (1, 3, 4, 4))
    value = L.mixture_log_prob(logits, x)
    assert value.dtype == torch.float32
    assert torch.equal(value, L.mixture_log_prob(logits.float(), x))


def test_sampler_oracle(oracle):
    data = oracle("b_mixture_logistic.npz")
    logits = torch.tensor(data["logits"])[:4].permute(0, 2, 3, 1).reshape(-1, 50)
    u_mix, u = (torch.tensor(data[k]).permute(0, 2, 3, 1).reshape(256, -1) for k in ("s_u_mix", "s_u_logistic"))
    drawn = L.sample_mixture(logits, u_mix, u, round_pixels=False)
    expected = torch.tensor(data["s_x"]).permute(0, 2, 3, 1).reshape(-1, 3)
    assert torch.allclose(drawn.double(), expected.double(), rtol=0, atol=1e-9)


def test_rounded_samples_follow_the_discretized_law():
    """Frequencies of one drawn channel against exp(log p), one component, chi-square."""
    torch.manual_seed(3)
    logits = torch.zeros(1, 10, dtype=torch.float64)
    logits[0, 1], logits[0, 2] = 0.9, math.log(0.2)  # red: mean near white, so the upper tail matters
    n = 200_000
    u = 1e-9 + (1 - 2e-9) * torch.rand(n, 3, dtype=torch.float64)
    drawn = L.sample_mixture(logits.expand(n, -1), torch.full((n, 1), 0.5, dtype=torch.float64), u)
    counts = torch.bincount(torch.round(drawn[:, 0] * 127.5 + 127.5).long(), minlength=256).double()
    mean, log_scale = torch.tensor([0.9 * 127.5 + 128]), torch.tensor([math.log(0.2 * 127.5)])
    expected = n * L.discretized_logistic_log_prob(torch.arange(256), mean.double(), log_scale.double()).exp()
    chi_square = ((counts - expected).square() / expected).sum().item()
    assert chi_square < 255 + 6 * math.sqrt(2 * 255)
    assert counts[255] > 0.2 * n


@pytest.mark.parametrize("levels", [256, 8])
def test_discretized_logistic_samples_follow_their_law(levels):
    n = 100_000
    mean, log_scale = torch.tensor(250.0).double(), torch.tensor(math.log(9.0)).double()
    u = 1e-9 + (1 - 2e-9) * torch.rand(n, dtype=torch.float64)
    drawn = L.sample_discretized_logistic(mean.expand(n), log_scale, u, levels).long()
    width = 256 // levels
    counts = torch.bincount(drawn // width, minlength=levels).double()
    expected = n * L.discretized_logistic_log_prob(torch.arange(levels) * width, mean[None], log_scale[None], levels).exp()
    seen = expected > 5
    chi_square = ((counts - expected).square() / expected)[seen].sum().item()
    assert chi_square < seen.sum() + 6 * math.sqrt(2 * seen.sum())


def test_bits_per_dim():
    assert L.bits_per_dim(3072 * math.log(2), 3072) == pytest.approx(1.0)
