import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agave.bounds import StreamingLogMeanExp
from agave.models.interface import Terms
from agave.objective import free_bits, objective


def terms(batch=4):
    kl, x, y = torch.rand(batch), -torch.rand(batch), -torch.rand(batch)
    return Terms(kl, x, y, kl.sum())


def test_objective_is_minus_eq_7_and_its_readings_of_the_kl_weight():
    """Claim C28: weight 1 is the bound on the joint of x and y, weight 2 the sum of the two bounds, more is looser."""
    t = terms()
    for weight in (0.0, 1.0, 2.0, 12.0):
        expected = -(t.log_prob_x + t.log_prob_y - weight * t.kl).mean()
        assert torch.allclose(objective(t, weight), expected)
    bound_x, bound_y = t.log_prob, Terms(t.kl, None, t.log_prob_y, t.kl.sum()).log_prob
    assert torch.allclose(objective(t, 2.0), -(bound_x + bound_y).mean())
    assert objective(t, 12.0) > objective(t, 2.0)
    assert torch.allclose(objective(t, 3.0, auxiliary=False), -(t.log_prob_x - 3 * t.kl).mean())


def test_reported_bound_has_no_auxiliary_term():
    t = terms()
    other = Terms(t.kl, t.log_prob_x, t.log_prob_y - 100, t.kl_objective)
    assert torch.equal(t.log_prob, other.log_prob)


def test_free_bits():
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]])
    assert torch.allclose(free_bits(kl, 0.0), kl.sum())
    assert torch.allclose(free_bits(kl, 1.0), torch.tensor(2 * (1.0 + 3.0)))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-8000, 8000), min_size=1, max_size=40), st.integers(1, 7))
def test_streaming_equals_logsumexp_however_it_is_fed(weights, piece):
    values = torch.tensor(weights, dtype=torch.float64)[:, None]
    stream = StreamingLogMeanExp(1)
    for start in range(0, len(values), piece):
        stream.update(values[start : start + piece])
    expected = torch.logsumexp(values, 0) - math.log(len(weights))
    assert torch.allclose(stream.result(), expected, rtol=1e-13, atol=1e-9)
    single = StreamingLogMeanExp((1,))
    for value in values:
        single.update(value)
    assert torch.allclose(single.result(), expected, rtol=1e-13, atol=1e-9)


def test_streaming_of_zero_weights():
    stream = StreamingLogMeanExp(2)
    stream.update(torch.tensor([-math.inf, -math.inf]))
    assert (stream.result() == -math.inf).all()
    stream.update(torch.tensor([-math.inf, 3.0]))
    assert stream.result()[0] == -math.inf and stream.result()[1].item() == pytest.approx(3.0 - math.log(2))


def test_streaming_refuses_nothing_and_wrong_shapes():
    with pytest.raises(ValueError, match="at least one"):
        StreamingLogMeanExp(2).result()
    with pytest.raises(ValueError, match="accepted"):
        StreamingLogMeanExp(2).update(torch.zeros(3))


def test_streaming_oracle(oracle):
    data = oracle("e_iwae_linear_gaussian.npz")
    stream = StreamingLogMeanExp(6)
    for column in torch.tensor(data["stream_in"]).t():
        stream.update(column)
    assert torch.allclose(stream.result(), torch.tensor(data["stream_ref"]), rtol=0, atol=1e-10, equal_nan=True)
    stream = StreamingLogMeanExp(10)
    stream.update(torch.tensor(data["logw150"]))
    assert torch.allclose(stream.result(), torch.tensor(data["iwae150_fixed"]), rtol=0, atol=1e-10)


def test_iwae_of_a_linear_gaussian_model_is_exact_within_noise_and_grows_with_samples(oracle):
    """Our own estimator on a model whose marginal is known."""
    data = {k: torch.tensor(v) for k, v in oracle("e_iwae_linear_gaussian.npz").items() if v.dtype.kind in "fi"}
    weight = next(data[k] for k in ("W", "weight") if k in data)
    bias = next(data[k] for k in ("bias", "b") if k in data)
    sigma = next(data[k] for k in ("sigma", "s") if k in data)
    normal = torch.distributions.Normal
    repeats, means, errors = 300, [], []
    generator = torch.Generator().manual_seed(1)
    counts = (1, 5, 50, 150)
    for samples in counts:
        noise = torch.randn(repeats, samples, 10, 3, generator=generator, dtype=torch.float64)
        z = data["q_mean"] + data["q_std"] * noise
        log_w = normal(z @ weight.T + bias, sigma).log_prob(data["X"]).sum(-1) + normal(0.0, 1.0).log_prob(z).sum(-1)
        log_w = log_w - normal(data["q_mean"], data["q_std"]).log_prob(z).sum(-1)  # (repeats, samples, 10)
        stream = StreamingLogMeanExp((repeats, 10))
        for k in range(samples):
            stream.update(log_w[:, k])
        value = stream.result()
        means.append(value.mean(0))
        errors.append(value.std(0) / math.sqrt(repeats))
    for mean, error, samples in zip(means, errors, counts, strict=True):
        row = data["K"].tolist().index(samples)
        spread = torch.sqrt(error**2 + data["iwae_se"][row] ** 2)
        assert ((mean - data["iwae_mean"][row]).abs() < 4 * spread + 1e-9).all()  # 40 comparisons
    for fewer, more, a, b in zip(means, means[1:], errors, errors[1:], strict=False):
        assert (more - fewer > -3 * torch.sqrt(a**2 + b**2)).all()
    assert (data["log_px"] - means[-1] < 0.0085 + 3 * errors[-1]).all() and (means[-1] - data["log_px"] < 3 * errors[-1] + 1e-9).all()
