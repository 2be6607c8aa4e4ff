import pytest
import torch

from agave.likelihoods import mixture_log_prob, mixture_log_prob_thresholded
from agave.models.agave import scale_to_unit
from agave.models.layers import WeightNormConv2d, data_dependent_initialisation
from agave.models.pixelcnn_pp import PixelCNNpp, load_published_weights, published_weights


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_published_network_oracle(oracle, dtype, tolerance):
    io, arrays, exact = (oracle(f"a_pixelcnnpp_small_{name}.npz") for name in ("io", "params", "nll_exact"))
    model = PixelCNNpp(16, 2, 5).to(dtype).eval()
    load_published_weights(model, arrays)
    x = torch.tensor(io["x_uint8"])
    with torch.no_grad():
        logits = model(scale_to_unit(x, dtype))
    expected = torch.tensor(io["logits"])
    scale = 1.0 if dtype == torch.float64 else expected.abs().max()
    assert (logits - expected).abs().max() / scale < tolerance
    nats = 1e-7 if dtype == torch.float64 else 0.05
    for function, reference in ((mixture_log_prob_thresholded, io["nll_nats"]), (mixture_log_prob, exact["nll_exact_nats"])):
        assert (-function(logits, x).sum((1, 2)) - torch.tensor(reference)).abs().max() < nats


def test_receptive_field_oracle(oracle):
    io, arrays = oracle("a_pixelcnnpp_small_io.npz"), oracle("a_pixelcnnpp_small_params.npz")
    model = PixelCNNpp(16, 2, 5).double().eval()
    load_published_weights(model, arrays)
    x = scale_to_unit(torch.tensor(io["x_uint8"])[:1], torch.float64).requires_grad_()
    logits = model(x)
    for (row, column), expected in list(zip(io["rf_pos"].tolist(), io["rf_support"], strict=True))[::2]:
        (gradient,) = torch.autograd.grad(logits[0, :, row, column].sum(), x, retain_graph=True)
        assert torch.equal(gradient[0].abs().amax(0) > 0, torch.tensor(expected))


def small(resolutions, features, dtype=torch.float64, height=8, width=16):
    model = PixelCNNpp(6, 1, 2, resolutions, 3 if features else 0).to(dtype)
    x = torch.randint(0, 256, (2, 3, height, width))
    f = torch.rand(2, 3, height, width, dtype=dtype) * 2 - 1 if features else None
    model.initialise(scale_to_unit(x, dtype), f)
    return model.eval(), x, f


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("resolutions", [1, 2, 3, 4])
def test_no_gradient_from_the_future(resolutions, features):
    """Claim C26: given f(z), a pixel depends on earlier pixels only; through f(z) on all positions."""
    model, x_uint8, f = small(resolutions, features)
    x = scale_to_unit(x_uint8, torch.float64).requires_grad_()
    if f is not None:
        f.requires_grad_()
    logits = model(x, f)
    height, width = x.shape[2:]
    raster = torch.arange(height * width).view(height, width)
    for row, column in [(0, 0), (0, 5), (1, 0), (3, 7), (4, 8), (6, 15), (7, 15)]:
        total = logits[0, :, row, column].abs().sum()
        gradient = torch.autograd.grad(total, [x] if f is None else [x, f], retain_graph=True)
        future = raster >= row * width + column
        assert (gradient[0][0][:, future] == 0).all()
        if row or column:
            assert (gradient[0][0][:, ~future] != 0).any()
        if f is not None:
            assert (gradient[1][0][:, raster >= row * width + column] != 0).any()


def test_full_size_parameter_count():
    with torch.device("meta"):
        model = PixelCNNpp(160, 5, 10)
    assert sum(p.numel() for p in model.parameters()) == 53_659_080


@pytest.mark.parametrize(("size", "count"), [((16, 2, 5), 245_988), ((32, 2, 10), 974_856)])
def test_small_parameter_counts(size, count):
    assert sum(p.numel() for p in PixelCNNpp(*size).parameters()) == count


@pytest.mark.parametrize("features", [False, True])
def test_after_initialisation_every_layer_has_mean_zero_and_its_nominal_deviation(features):
    model = PixelCNNpp(6, 1, 2, 2, 3 if features else 0, dropout=0.0).double()
    x = scale_to_unit(torch.randint(0, 256, (8, 3, 16, 16)), torch.float64)
    f = torch.rand(8, 3, 16, 16, dtype=torch.float64) if features else None
    model.initialise(x, f)
    seen = {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, WeightNormConv2d)}
    hooks = [m.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out.clone())) for name, m in layers.items()]
    with torch.no_grad():
        model(x, f)
    for hook in hooks:
        hook.remove()
    assert set(seen) == set(layers)
    for name, out in seen.items():
        if layers[name].bias is not None:
            assert out.mean((0, 2, 3)).abs().max() < 1e-6, name
        assert torch.allclose(out.std((0, 2, 3), correction=0), torch.tensor(layers[name].init_scale).double(), rtol=1e-4), name


def test_stream_added_to_a_pretrained_network_changes_its_logits_little():
    plain, x_uint8, _ = small(2, False)
    model = PixelCNNpp(6, 1, 2, 2, 3).double().eval()
    model.load_state_dict(model.state_dict() | plain.state_dict())
    f = torch.rand(2, 3, 8, 16, dtype=torch.float64)
    x = scale_to_unit(x_uint8, torch.float64)
    model.initialise_stream(x, f)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())
    with torch.no_grad():
        change = (model(x, f) - plain(x)).std() / plain(x).std()
        assert torch.equal(model(x), plain(x))  # without features it is the pretrained network
    assert 0 < change < 0.5
    model(x, f).square().sum().backward()
    assert all((block.inject.direction.grad != 0).any() for stage in model.down for block in stage["ul"])


def test_weights_survive_export_and_import():
    first, x_uint8, _ = small(3, False, torch.float32)
    second = PixelCNNpp(6, 1, 2, 3).eval()
    load_published_weights(second, published_weights(first))
    x = scale_to_unit(x_uint8)
    with torch.no_grad():
        assert torch.allclose(first(x), second(x), rtol=0, atol=1e-5)


def test_wrong_weights_are_refused_and_change_nothing():
    model, _, _ = small(2, False)
    before = published_weights(model)
    with pytest.raises(ValueError, match="1 missing"):
        load_published_weights(model, {k: v for k, v in before.items() if k != "out.W"})
    with pytest.raises(ValueError, match="1 unknown"):
        load_published_weights(model, before | {"h.W": before["out.W"]})
    with pytest.raises(ValueError, match=r"out: weight .* accepted"):
        load_published_weights(model, before | {"out.W": before["out.W"][:-1], "init.u.b": before["init.u.b"] + 1})
    assert all(torch.equal(a, b) for a, b in zip(before.values(), published_weights(model).values(), strict=True))


def test_shapes_that_do_not_fit_are_refused():
    model, _, f = small(3, True)
    with pytest.raises(ValueError, match="multiples of 4"):
        model(torch.zeros(1, 3, 6, 8).double(), None)
    with pytest.raises(ValueError, match="features have shape"):
        model(torch.zeros(2, 3, 8, 8).double(), f)
    with pytest.raises(ValueError, match="no feature stream"):
        small(3, False)[0](torch.zeros(2, 3, 8, 16).double(), f)


@pytest.mark.parametrize("transposed", [False, True])
def test_weight_norm_is_per_output_channel(transposed):
    layer = WeightNormConv2d(3, 5, (2, 2), stride=2, transposed=transposed)
    with torch.no_grad():
        layer.gain.copy_(torch.arange(1.0, 6.0))
    norm = layer.weight().square().sum((0, 2, 3) if transposed else (1, 2, 3)).sqrt()
    assert torch.allclose(norm, layer.gain)


def test_initialisation_of_a_constant_input_stays_finite():
    layer = WeightNormConv2d(3, 5, (3, 3), padding=(1, 1, 1, 1), log_gain=True, init_scale=0.1)
    with data_dependent_initialisation(layer), torch.no_grad():
        layer(torch.zeros(4, 3, 8, 8))
    assert torch.allclose(layer.gain.exp(), torch.tensor(0.1))
