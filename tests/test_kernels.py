"""The compiled kernels against torch's own operations in double precision, and what happens without them."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agave.likelihoods import mixture_log_prob, softmax_log_prob
from agave.models.ops import activation, compiled, elu, gate
from agave.random_numbers import StepNumbers


def padded_concat_elu(x, padding, dropout=0.0, with_active=False):
    """`activation` as a pair (padded, plain)."""
    batch, channels, height, width = x.shape
    keep = StepNumbers(0, 3).masks(batch, [(height, width, 2 * channels)], dropout, x)[0] if dropout else None
    found = activation(x, padding, keep=keep, dropout=dropout, plain=with_active)
    return found.padded, found.plain if with_active else None


TYPES = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
PADDINGS = [(0, 0, 0, 0), (1, 1, 1, 0), (1, 0, 1, 0), (0, 2, 0, 3)]

pytestmark = pytest.mark.skipif(compiled.library() is None, reason="no C compiler")


def values(*shape, dtype=torch.float32, seed=0):
    """Ordinary, large and tiny values, zeros among them; contiguous with channels last."""
    generator = np.random.default_rng(seed)
    numbers = generator.normal(size=shape) * 10.0 ** generator.integers(-8, 3, shape)
    numbers[generator.random(shape) < 0.05] = 0.0
    return torch.from_numpy(numbers).to(dtype).contiguous(memory_format=torch.channels_last)


def outcome(function, inputs, monkeypatch=None):
    """Results and gradients of sum(result * weight), with the kernels or, given monkeypatch, in double precision without them."""
    if monkeypatch is not None:
        inputs = [x.double() for x in inputs]
        assert not compiled.serve(*inputs)
    inputs = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    results = function(*inputs)
    results = [result for result in (results if isinstance(results, tuple) else (results,)) if result is not None]
    weights = [values(*result.shape, seed=9).clamp(-1, 1).to(result.dtype) for result in results]
    torch.autograd.backward(results, weights)
    return [result.detach() for result in results], [x.grad for x in inputs]


def close(found, wanted, tolerance):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b).abs().le(tolerance * (1 + b.abs())).all(), float((a.double() - b).abs().max())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["elu", "gate", *PADDINGS])
@pytest.mark.parametrize("shape", [(2, 32, 6, 5), (1, 3, 1, 1), (3, 17, 2, 7), (1, 6, 3, 9), (2, 8, 1, 11)])
def test_values_and_gradients_are_those_of_double_precision(name, shape, dtype, monkeypatch):
    batch, channels, height, width = shape
    inputs = [values(*shape, dtype=dtype)]
    if name == "gate":
        inputs.append(values(batch, 2 * channels, height, width, dtype=dtype, seed=1))
    function = {"elu": elu, "gate": gate}.get(name) or (lambda x: padded_concat_elu(x, name, with_active=True))
    assert compiled.serve(*inputs)
    found, gradients = outcome(function, inputs)
    wanted, wanted_gradients = outcome(function, inputs, monkeypatch)
    close(found, wanted, TYPES[dtype])
    close(gradients, wanted_gradients, 4 * TYPES[dtype])


@pytest.mark.parametrize("channels", [6, 8])
@pytest.mark.parametrize("with_active", [False, True])
def test_dropout_drops_the_same_elements(with_active, channels, monkeypatch):
    x = values(4, channels, 6, 6)

    def function(x):
        return padded_concat_elu(x, (1, 0, 1, 0), 0.25, with_active)

    found, gradients = outcome(function, [x])
    wanted, wanted_gradients = outcome(function, [x], monkeypatch)
    close(found, wanted, 3e-6)
    close(gradients, wanted_gradients, 2e-5)
    dropped = (found[0][:, :, 1:, 1:] == 0).double().mean()
    assert 0.2 < dropped < 0.4  # a quarter, and the zeros


def test_the_gradient_of_one_output_alone():
    for index in (0, 1):
        x = values(2, 4, 3, 3).requires_grad_()
        y = x.detach().double().requires_grad_()
        for one in (x, y):
            result = padded_concat_elu(one, (1, 1, 1, 0), with_active=True)[index]
            assert result is not None
            (result * result).sum().backward()
        close([x.grad], [y.grad], 2e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(value):
    x = torch.full((1, 4, 2, 2), value).contiguous(memory_format=torch.channels_last)
    assert not torch.isfinite(padded_concat_elu(x, (0, 0, 0, 0))[0][:, :4]).any()
    assert not torch.isfinite(elu(x)).any()
    both = x.repeat(1, 2, 1, 1).contiguous(memory_format=torch.channels_last)
    assert not torch.isfinite(gate(torch.zeros_like(x), both)).any()
    assert math.isnan(float(mixture_log_prob(torch.full((1, 10, 1, 1), math.nan), torch.zeros(1, 3, 1, 1, dtype=torch.uint8))))
    assert softmax_log_prob(torch.full((1, 768, 1, 1), value), torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).isnan().all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), mixtures=st.integers(1, 12), height=st.integers(1, 9), width=st.integers(1, 9))
def test_the_likelihood_and_its_gradient_are_those_of_double_precision(seed, mixtures, height, width):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 10 * mixtures, height, width, generator=generator)
    x = torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    x[0, :, 0, 0] = torch.tensor([0, 255, 128])
    found = logits.clone().requires_grad_()
    wanted = logits.double().requires_grad_()
    for one in (found, wanted):
        mixture_log_prob(one, x).sum().backward()
    # relative to the size of what is added up, as everything in single precision
    assert torch.allclose(mixture_log_prob(found, x).double(), mixture_log_prob(wanted, x), rtol=3e-5, atol=1e-4)
    scale = wanted.grad.abs().amax(1, keepdim=True) + 1
    assert ((found.grad.double() - wanted.grad).abs() / scale).max() < 1e-3


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_softmax_and_its_gradient_are_those_of_double_precision(size):
    logits = (size * torch.randn(2, 768, 4, 5)).contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    x = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    found, wanted = softmax_log_prob(logits, x), softmax_log_prob(exact, x)
    weight = torch.randn(wanted.shape)
    for one in (found, wanted):
        (one * weight).sum().backward()
    close([found.detach(), logits.grad], [wanted.detach(), exact.grad], 3e-6 * size)


def test_the_number_of_threads_changes_no_bit():
    x, logits = values(3, 8, 9, 7), torch.randn(2, 20, 11, 13)
    pixels = torch.randint(0, 256, (2, 3, 11, 13), dtype=torch.uint8)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        of_softmax = softmax_log_prob(torch.linspace(-9, 9, 768).expand(2, 11, 13, 768).permute(0, 3, 1, 2), pixels)
        found.append((padded_concat_elu(x, (1, 1, 1, 0))[0], mixture_log_prob(logits, pixels), of_softmax))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_other_types_devices_and_orders_are_left_to_torch():
    assert not compiled.serve(torch.zeros(1, 2, 3, 3, dtype=torch.float64))
    assert not compiled.serve(torch.zeros(1, 2, 3, 3, device="meta"))
    assert not compiled.serve(torch.zeros(2, 4, 3, 3))
    assert compiled.serve(torch.zeros(2, 4, 3, 3), channels_last=False)
    assert not compiled.serve(torch.zeros(2, 4, 3, 6)[..., ::2], channels_last=False)


@pytest.mark.parametrize(("setting", "said"), [({"CC": "no-such-compiler"}, "note: no compiled kernels"), ({"AGAVE_KERNELS": "0"}, "")])
def test_without_a_compiler_torch_takes_over(setting, said, tmp_path, monkeypatch):
    code = (
        "import torch; from agave.models.ops import compiled, elu\n"
        "x = torch.linspace(-3, 3, 7)[None, :, None, None]\n"
        "assert not compiled.serve(x, channels_last=False) and not compiled.serve(x, channels_last=False)\n"
        "assert torch.allclose(elu(x), torch.nn.functional.elu(x), atol=1e-6)\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **setting}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == bool(said) and done.stderr.startswith(said)
