import math

import pytest
import torch

from agave.models.layers import MaskedConv2d, WeightNormConv2d
from agave.models.vae_iaf import VAEIAF, AutoregressiveNet, Encoding, StochasticLayer
from agave.objective import free_bits
from agave.random_numbers import StepNumbers

LAYERS = {"h0": "h0", "h1": "h1", "mean": "mean", "logsd": "log_deviation"}


def oracle_net(data):
    net = AutoregressiveNet(4, 8).double()
    with torch.no_grad():
        for theirs, ours in LAYERS.items():
            layer = getattr(net, ours)
            layer.direction.copy_(torch.tensor(data[f"{theirs}.v"]))
            layer.gain.copy_(torch.tensor(data[f"{theirs}.g_log"]).flatten())
            layer.bias.copy_(torch.tensor(data[f"{theirs}.b"]).flatten())
    return net


def test_flow_oracle(oracle):
    data = oracle("d_iaf.npz")
    net = oracle_net(data)
    for theirs, ours in LAYERS.items():
        assert torch.equal(getattr(net, ours).mask, torch.tensor(data[f"{theirs}.mask"]).float())
        assert torch.allclose(getattr(net, ours).weight(), torch.tensor(data[f"{theirs}.W"]), rtol=0, atol=1e-12)
    z, context = torch.tensor(data["z"]), torch.tensor(data["context"])
    mean, log_deviation = net(z, context)
    assert torch.allclose(mean, torch.tensor(data["arw_mean"]), rtol=0, atol=1e-10)
    assert torch.allclose(log_deviation, torch.tensor(data["arw_logsd"]), rtol=0, atol=1e-10)
    new = (z - mean) * torch.exp(-log_deviation)
    assert torch.allclose(new, torch.tensor(data["z_new"]), rtol=0, atol=1e-10)
    assert torch.allclose(log_deviation.sum((1, 2, 3)), torch.tensor(data["logq_increment"]), rtol=0, atol=1e-10)


def test_masks_oracle(oracle):
    data = oracle("d_iaf.npz")
    names = [name for name in data if name.startswith("mask_in")]
    assert names
    for name in names:
        inputs, outputs, strict = name.removeprefix("mask_in").replace("_out", " ").replace("_strict", " ").split()
        layer = MaskedConv2d(int(inputs), int(outputs), strict=strict == "1")
        assert torch.equal(layer.mask, torch.tensor(data[name]).float()), name


def test_stochastic_layer_oracle(oracle):
    data = oracle("d_iaf.npz")
    layer = StochasticLayer(8, 4, halve=False, exponent=1.0).double()
    layer.flow = oracle_net(data)
    part = {k: torch.tensor(v) for k, v in data.items() if k.startswith("fb_")}
    prior = [part[k] for k in ("fb_p_mean", "fb_p_logsd")]
    zero_context = torch.zeros_like(part["fb_context"])
    columns = torch.cat((*prior, part["fb_r_mean"], part["fb_r_logsd"], zero_context, zero_context), dim=1)
    layer.down_in.forward = lambda _: columns  # the oracle gives this convolution's output
    h = torch.zeros(3, 8, *part["fb_eps"].shape[2:], dtype=torch.float64)
    below = Encoding(part["fb_q_mean"], part["fb_q_logsd"], part["fb_context"])
    _, kl = layer.top_down(h, below, part["fb_eps"])
    assert torch.allclose(kl.sum(1), part["fb_kl_per_image"], rtol=0, atol=1e-10)
    assert torch.allclose(kl.mean(0), part["fb_group"], rtol=0, atol=1e-10)
    for minimum, expected in zip((0.0, 0.25, 40.0), part["fb_obj_per_image"], strict=True):
        value = free_bits(kl, minimum) / 3
        assert torch.allclose(value, expected.mean() if minimum == 0 else expected.flatten()[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("latent", "hidden"), [(3, 6), (4, 2), (2, 2)])
def test_flow_jacobian_is_triangular_in_generation_order(latent, hidden):
    net = AutoregressiveNet(latent, hidden).double()
    context = torch.randn(1, hidden, 3, 4, dtype=torch.float64)

    def flow(z):
        mean, log_deviation = net(z, context)
        return (z - mean) * torch.exp(-log_deviation)

    z = torch.randn(1, latent, 3, 4, dtype=torch.float64)
    size = z.numel()
    jacobian = torch.autograd.functional.jacobian(flow, z).view(size, size)
    order = torch.arange(size).view(latent, 12).flip(1).t().flatten()  # pixels from last to first, channels ascending
    ordered = jacobian[order][:, order]
    assert (ordered.triu(1) == 0).all()
    assert (ordered.tril(-1) != 0).any()
    log_deviation = net(z, context)[1]
    assert torch.allclose(-log_deviation.sum(), torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-10)


def test_full_size_parameter_count():
    with torch.device("meta"):
        model = VAEIAF(32, 32, 1, 20, 160, 32)
    assert sum(p.numel() for p in model.parameters()) == 41_557_927 + 2  # three scales instead of one


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("resolution", [16, 8, 4])
def test_shapes_and_generation(depth, resolution):
    model = VAEIAF(16, resolution, depth, 2, 8, 4)
    x, y = torch.randint(0, 256, (5, 3, 16, 16)), torch.randint(0, 256, (5, 3, resolution, resolution))
    model.initialise(x, y)
    mean, kl = model.decode(model.encode(x), model.latent_noise(5, StepNumbers()))
    assert mean.shape == (5, 3, resolution, resolution) and kl.shape == (5, depth * 2 * 4)
    assert torch.isfinite(mean).all() and torch.isfinite(kl).all()
    generated, nothing = model.decode(None, model.latent_noise(5, StepNumbers()))
    assert generated.shape == mean.shape and (nothing == 0).all()


def test_resolutions_that_no_head_makes_are_refused():
    with pytest.raises(ValueError, match="resolution 10; accepted: 16, 8 or 4"):
        VAEIAF(16, 10, 1, 1, 8, 4)
    with pytest.raises(ValueError, match="multiples of 8"):
        VAEIAF(20, 20, 3, 1, 8, 4)
    with pytest.raises(ValueError, match="one a multiple of the other"):
        MaskedConv2d(4, 6, strict=True)


def test_after_initialisation_layers_have_mean_zero_and_their_nominal_deviation():
    model = VAEIAF(16, 16, 2, 2, 8, 4).double()
    x = torch.randint(0, 256, (16, 3, 16, 16))
    fixed = [torch.randn(16, 4, 8 // 2**level, 8 // 2**level, dtype=torch.float64) for level in (1, 1, 0, 0)]
    model.latent_noise = lambda batch, numbers: fixed  # the same noise while initialising and while checking
    model.initialise(x, x)
    seen = {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, WeightNormConv2d)}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
    with torch.no_grad():
        model.decode(model.encode(x), fixed)
    top = "layers.3.down_in"  # its input is the learned top, zero before training
    assert (seen.pop(top).std((0, 2, 3)) < 1e-6).all()
    for name, out in seen.items():
        assert out.mean((0, 2, 3)).abs().max() < 1e-6, name
        assert torch.allclose(out.std((0, 2, 3), correction=0), torch.tensor(layers[name].init_scale).double(), rtol=1e-3), name


def test_kl_of_a_diagonal_posterior_matches_the_closed_form():
    """Without the flow, the mean of the sampled KL is that of two Gaussians."""
    layer = StochasticLayer(4, 4, halve=False, exponent=1.0).double()
    with torch.no_grad():
        for parameter in layer.flow.mean.parameters():
            parameter.zero_()
        layer.flow.mean.gain.fill_(-100.0)
        layer.flow.log_deviation.gain.fill_(-100.0)
        layer.flow.log_deviation.bias.zero_()
        layer.flow.mean.direction.fill_(1.0)
    n = 20_000
    values = {k: 0.5 * torch.randn(1, 4, 2, 2, dtype=torch.float64) for k in ("pm", "ps", "rm", "rs", "qm", "qs")}
    zero = torch.zeros(1, 4, 2, 2, dtype=torch.float64)
    columns = torch.cat([values[k] for k in ("pm", "ps", "rm", "rs")] + [zero, zero], dim=1).expand(n, -1, -1, -1)
    layer.down_in.forward = lambda _: columns
    below = Encoding(*(t.expand(n, -1, -1, -1) for t in (values["qm"], values["qs"], zero)))
    with torch.no_grad():
        _, kl = layer.top_down(zero.expand(n, -1, -1, -1), below, torch.randn(n, 4, 2, 2, dtype=torch.float64))
    mean, log_sd = values["qm"] + values["rm"], values["qs"] + values["rs"]
    expected = (values["ps"] - log_sd + (torch.exp(2 * log_sd) + (mean - values["pm"]) ** 2) / (2 * torch.exp(2 * values["ps"])) - 0.5).sum(
        (2, 3)
    )
    error = kl.std(0) / math.sqrt(n)
    assert ((kl.mean(0) - expected[0]).abs() < 5 * error).all()
