"""PixelCNN, gated PixelCNN and PixelRNN: masks, causality with colours, receptive fields, exact sums, and drawing."""

import math

import pytest
import torch
from test_costs import Peak
from test_costs import images as blank
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from agave import config
from agave.config import Sample
from agave.config_networks import GatedPixelCNNModel
from agave.grid import Cell
from agave.likelihoods import sample_softmax, softmax_log_prob
from agave.models import make_model
from agave.models.causal_conv import CausalConv2d, causal_mask
from agave.models.diagonal_lstm import DiagonalBiLSTM, diagonals, lstm
from agave.models.gated_pixelcnn import GatedPixelCNN
from agave.models.interface import scale_to_unit
from agave.models.layers import folded
from agave.models.masked_pixelcnn import MaskedPixelCNN
from agave.models.pixelrnn import PixelRNN
from agave.planning import network_costs
from agave.planning.summary import _saved_bytes
from agave.random_numbers import PIXELS_GIVEN_PRIOR, KeyedNumbers

SYSTEMS = {
    "masked_pixelcnn": lambda size: MaskedPixelCNN(size, 6, 3, 12),
    "gated_pixelcnn": lambda size: GatedPixelCNN(size, 6, 4, 3, 12),
    "pixelrnn": lambda size: PixelRNN(size, 6, 2, 12),
}
every_system = pytest.mark.parametrize("system", SYSTEMS)


def images(count, size, values=256):
    return torch.randint(0, values, (count, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def make(system, size, values=256):
    """An initialised model in float64; with fewer values than 256 a toy whose images can be counted."""
    model = SYSTEMS[system](size).double().eval()
    model.likelihood_dtype = torch.float64
    last = model.head.logits
    model.head.logits = CausalConv2d(last.in_channels, 3 * values, (1, 1), "B").double()
    model.initialise(images(16, size, values))
    return model


# --- masks ---------------------------------------------------------------------------------------------------------------------------


def test_masks_are_those_of_independent_code(oracle):
    for name, expected in oracle("table1/o5_channel_masks.npz").items():
        kind, *gate, channels, kernel = name.split("_")
        inputs, outputs = map(int, channels.split("to"))
        height, width = map(int, kernel.split("x"))
        assert torch.equal(causal_mask(inputs, outputs, (height, width), kind, gate=bool(gate)), torch.tensor(expected) > 0), name


def test_every_gate_has_the_colours_of_its_value():
    """Each block of a gated layer or an LSTM has the mask of the values alone, so that no gate of G reaches a value of R."""
    alone = causal_mask(7, 5, (1, 1), "B")
    assert torch.equal(causal_mask(7, 20, (1, 1), "B", gate=3), torch.cat([alone] * 4))
    red, green, blue = alone[:, :, 0, 0][[0, 2, 4]]
    assert red.sum() < green.sum() < blue.sum() == 7


def test_a_kernel_with_its_centre_at_the_end_is_the_left_half_of_a_whole_one():
    whole, half = causal_mask(6, 6, (1, 7), "A"), causal_mask(6, 6, (1, 4), "A", centre=(0, 3))
    assert torch.equal(whole[..., :4], half) and not whole[..., 4:].any()


def test_stacked_masks_see_earlier_sub_pixels_alone(oracle):
    """Three layers on 5x5 pixels; support[a, b]: the outputs of sub-pixel a depend on sub-pixel b."""
    layers = [((3, 6), (7, 7), "A"), ((6, 6), (3, 3), "B"), ((6, 12), (1, 1), "B")]
    stack = nn.Sequential(*(CausalConv2d(*channels, kernel, kind) for channels, kernel, kind in layers)).double()
    jacobian = torch.autograd.functional.jacobian(stack, torch.randn(1, 3, 5, 5, dtype=torch.float64))  # (1, 12, 5, 5, 1, 3, 5, 5)
    reached = (jacobian[0, :, :, :, 0] != 0).unflatten(0, (3, 4)).any(1)  # (colour, row, column, colour, row, column)
    support = reached.permute(1, 2, 0, 4, 5, 3).reshape(75, 75)
    assert not support.triu().any()
    assert torch.equal(support, torch.tensor(oracle("table1/o6_subpixel_support.npz")["support"]))


def test_the_norm_is_that_of_the_masked_direction_and_hidden_weights_stay_zero():
    layer = CausalConv2d(3, 6, (7, 7), "A")
    hidden = ~causal_mask(3, 6, (7, 7), "A")
    assert torch.allclose(layer.weight().flatten(1).norm(dim=1), layer.gain) and not layer.weight()[hidden].any()
    layer(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert not layer.direction.grad[hidden].any() and layer.direction.grad[~hidden].all()


def test_mask_a_needs_something_to_see():
    with pytest.raises(ValueError, match="hides everything from R"):
        CausalConv2d(3, 6, (1, 1), "A")


# --- receptive fields ----------------------------------------------------------------------------------------------------------------


def sees(model, size, row, column):
    """The pixels that the logits of a pixel depend on, the pixel itself left out: bool (size, size)."""
    x = scale_to_unit(images(8, size), torch.float64).requires_grad_()
    model.logits(x)[:, :, row, column].square().sum().backward()
    found = (x.grad != 0).any(0).any(0)
    assert found[row, column]  # its own earlier colours
    found[row, column] = False
    return found


@pytest.mark.parametrize(("system", "name"), [("masked_pixelcnn", "pixelcnn_7A_3x3B"), ("gated_pixelcnn", "gated_4layers")])
def test_the_receptive_field_of_stacked_convolutions(oracle, system, name):
    """PixelCNN has a blind spot to the upper right, the gated one sees the whole rectangle above."""
    fields = oracle("table1/o10_receptive_fields.npz")
    assert torch.equal(sees(make(system, 25), 25, *fields["target"].tolist()), torch.tensor(fields[name]))


def test_the_receptive_field_of_the_lstm_is_all_that_comes_before():
    before = torch.arange(49).view(7, 7)
    for row, column in ((0, 0), (3, 2), (6, 6)):
        assert torch.equal(sees(make("pixelrnn", 7), 7, row, column), before < 7 * row + column)


def test_the_vertical_stack_sees_no_pixel_of_its_own_row():
    model = make("gated_pixelcnn", 8)
    for layer in model.layers:
        layer.horizontal.gain.data.zero_()
    x = scale_to_unit(images(2, 8), torch.float64)
    changed = x.clone()
    changed[:, :, 4] = 0
    before, after = model.logits(x), model.logits(changed)
    assert torch.equal(before[:, :, :5], after[:, :, :5]) and not torch.equal(before[:, :, 5], after[:, :, 5])


# --- the softmax ---------------------------------------------------------------------------------------------------------------------


def test_the_softmax_is_that_of_independent_code(oracle):
    known = {name: torch.tensor(array) for name, array in oracle("table1/o8_softmax256.npz").items()}
    found = softmax_log_prob(known["logits"], known["x_uint8"])
    assert torch.allclose(found, known["log_prob"], rtol=1e-12)
    assert torch.allclose(found.sum((1, 2, 3)), known["per_image_nats"], rtol=1e-12)
    channels_last = known["logits"].contiguous(memory_format=torch.channels_last)
    assert torch.allclose(softmax_log_prob(channels_last, known["x_uint8"]), found, rtol=1e-14)


def test_the_softmax_names_what_does_not_fit():
    for logits, x in (
        (torch.zeros(1, 768, 2, 2), torch.zeros(1, 3, 2, 3).byte()),
        (torch.zeros(1, 767, 2, 2), torch.zeros(1, 3, 2, 2).byte()),
    ):
        with pytest.raises(ValueError, match="accepted: integers"):
            softmax_log_prob(logits, x)


def test_draws_from_the_softmax_have_its_frequencies():
    logits = torch.tensor([[2.0, -1.0, 0.5, -30.0]])
    uniforms = (torch.arange(20_000) + 0.5) / 20_000
    for temperature in (0.5, 1.0, 3.0):
        values = sample_softmax(logits.expand(20_000, -1), uniforms, temperature)
        frequencies = values.bincount(minlength=4) / 20_000
        assert torch.allclose(frequencies, (logits[0] / temperature).softmax(0), atol=1e-4)
    assert (sample_softmax(logits.expand(20_000, -1), uniforms, 0.01) == 0).all()


@every_system
def test_the_values_of_a_sub_pixel_have_probability_one(system):
    model, x = make(system, 5), images(1, 5).expand(256, -1, -1, -1)
    for colour, row, column in ((0, 0, 0), (1, 2, 4), (2, 4, 4)):
        all_values = x.clone()
        all_values[:, colour, row, column] = torch.arange(256)
        with torch.no_grad():
            total = model.log_prob_subpixels(all_values)[:, colour, row, column].exp().sum()
        assert abs(total - 1) < 1e-12


@every_system
def test_the_images_of_a_toy_have_probability_one(system):
    """All 4,096 images of 2x2 pixels with three colours of two values."""
    model = make(system, 2, values=2)
    bits = torch.arange(4096)[:, None] >> torch.arange(12) & 1
    with torch.no_grad():
        log_prob = model(bits.to(torch.uint8).view(-1, 3, 2, 2)).log_prob
    assert abs(log_prob.exp().sum() - 1) < 1e-12 and log_prob.std() > 0.01


# --- the diagonal LSTM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 5), (5, 1), (3, 6), (6, 3)])
def test_diagonals_visit_every_pixel_once_after_those_above_and_to_the_left(height, width):
    order, lengths = diagonals(height, width)
    inverse = order.argsort()
    assert torch.equal(order[inverse], torch.arange(height * width)) and torch.equal(inverse[order], torch.arange(height * width))
    step = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[inverse].view(height, width)
    assert torch.equal(step, torch.arange(height)[:, None] + torch.arange(width))


def reference_layer(known):
    layer = DiagonalBiLSTM(2, 4, 4).double()
    layer.input = nn.Conv2d(3, 16, 1).double()
    forget = torch.zeros(8, dtype=torch.float64)
    forget[2:4] = 1  # which the layer adds itself
    with torch.no_grad():
        layer.input.weight.copy_(torch.cat((known["l_input"], known["r_input"]))[:, :, None, None])
        layer.input.bias.copy_(torch.cat((known["l_bias"] - forget, known["r_bias"] - forget)))
        for direction, side in enumerate("lr"):
            above, left = known[f"{side}_state"].unbind(2)
            layer.recurrent[direction] = torch.cat((above.T, left.T))
            layer.h0[direction, :, 0], layer.c0[direction, :, 0] = known[f"{side}_h0"], known[f"{side}_c0"]
    return layer


def test_the_diagonal_lstm_is_that_of_a_direct_recursion(oracle):
    known = {name: torch.tensor(array) for name, array in oracle("table1/o9_diagonal_bilstm.npz").items()}
    layer, x = reference_layer(known), known["x"][None]
    assert torch.allclose(layer.states(x)[0], known["output"], rtol=0, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(layer.states, x)  # (1, 2, 4, 4, 1, 3, 4, 4)
    support = (jacobian[0, :, :, :, 0] != 0).any(3).any(0).reshape(16, 16)
    assert torch.equal(support, known["support"])


def test_an_image_of_one_row_is_an_ordinary_lstm():
    channels, width, batch = 3, 7, 2
    layer = DiagonalBiLSTM(channels, 1, width).double()
    ordinary = nn.LSTM(2 * channels, channels).double()
    t = torch.randn(batch, 2 * channels, 1, width, dtype=torch.float64)
    layer.h0.data.normal_()
    layer.c0.data.normal_()

    def gates(o, f, i, g):  # the order of nn.LSTM
        return torch.cat((i, f, g, o))

    with torch.no_grad():
        o, f, i, g = layer.input.weight()[: 4 * channels, :, 0, 0].chunk(4)
        ordinary.weight_ih_l0.copy_(gates(o, f, i, g))
        ordinary.weight_hh_l0.copy_(gates(*layer.recurrent[0, channels:].T.chunk(4)))
        o, f, i, g = layer.input.bias[: 4 * channels].chunk(4)
        ordinary.bias_ih_l0.copy_(gates(o, f + 1, i, g))
        ordinary.bias_hh_l0.zero_()
    start = tuple(state[0].expand(1, batch, channels).contiguous() for state in (layer.h0, layer.c0))
    expected, _ = ordinary(t[:, :, 0].permute(2, 0, 1), start)  # (W, B, h)
    assert torch.allclose(layer.states(t)[:, :, 0].permute(2, 0, 1), expected, rtol=1e-12)  # the one from the right has no row above


def test_rows_are_independent_without_the_state_above():
    layer = DiagonalBiLSTM(3, 4, 4).double()
    layer.recurrent.data[:, :3] = 0
    x = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 1] = 0
    equal = (layer.states(x) == layer.states(changed)).all(1)[0].all(1)  # by row
    assert equal.tolist() == [True, False, False, True]  # row 2 reads the states from the right of row 1


def test_the_cell_remembers_at_first():
    """With gates of zero the cell keeps sigmoid(1) of itself."""
    h, c = lstm(torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    kept = 1 / (1 + math.exp(-1))
    assert abs(c.item() - kept) < 1e-15 and abs(h.item() - 0.5 * math.tanh(kept)) < 1e-15


# --- drawing -------------------------------------------------------------------------------------------------------------------------


@every_system
def test_the_network_for_drawing_computes_the_logits_of_a_whole_pass(system):
    """It is given an image sub-pixel by sub-pixel, what comes later is noise."""
    model, size = make(system, 9), 9
    teacher = scale_to_unit(images(2, size), torch.float64)
    x = torch.randn_like(teacher)
    found = torch.empty(2, 3 * 256, size, size, dtype=torch.float64)
    with torch.no_grad():
        expected = model.logits(teacher)
        network = model.pixel_network(x)
        for row in range(size):
            network.start_row(row)
            for column in range(size):
                for colour in range(3):
                    of_colour = slice(256 * colour, 256 * (colour + 1))
                    found[:, of_colour, row, column] = network.logits(column)[:, of_colour]
                    x[:, colour, row, column] = teacher[:, colour, row, column]
    assert (found - expected).abs().max() < 1e-12


@every_system
def test_an_image_is_drawn_from_its_own_probabilities(system):
    """The logits of a whole pass over the finished image and the same random numbers lead to the same image."""
    model, size, options = make(system, 8), 8, Sample(temperature=0.7)
    given = images(3, size)[:, :, :3]
    drawn = model._draw(given, 5, 2, PIXELS_GIVEN_PRIOR, options, None)
    assert torch.equal(drawn[:, :, :3], given) and drawn[:, :, 3:].unique().numel() > 20
    with torch.no_grad():
        logits = model.logits(scale_to_unit(drawn, torch.float64)).unflatten(1, (3, 256))
    uniforms = KeyedNumbers(5, PIXELS_GIVEN_PRIOR, range(2, 5)).uniform(0, tuple(drawn.shape), logits)
    again = sample_softmax(logits.movedim(2, -1).reshape(-1, 256), uniforms.flatten(), 0.7).view(drawn.shape)
    assert torch.equal(again[:, :, 3:].to(torch.uint8), drawn[:, :, 3:])


@every_system
def test_a_completion_keeps_the_given_rows_and_says_how_far_it_is(system, capsys):
    model, x = make(system, 6), images(2, 6)
    made = model.figure_images(x, first=0, options=Sample(completion_rows=4), label="draw")
    assert list(made) == ["original", "prior_sample", "completion"]
    assert torch.equal(made["completion"][:, :, :4], x[:, :, :4]) and not torch.equal(made["completion"][:, :, 4:], x[:, :, 4:])
    assert "draw prior: 6/6 rows" in capsys.readouterr().err


# --- training ------------------------------------------------------------------------------------------------------------------------


@every_system
def test_training_starts_near_eight_bits_and_falls(system):
    """Images of a quarter of the values, so that there is something to learn in 20 steps."""
    model, x = SYSTEMS[system](8), images(16, 8, 64)
    model.initialise(x)
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = -model(x).log_prob.mean() / (3 * 64 * math.log(2))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert 7.9 < losses[0] < 8.1 and losses[-1] < losses[0] - 0.5


@every_system
def test_activations_that_are_computed_again_give_the_same_gradient(system):
    model, x = make(system, 6), images(2, 6)
    found = []
    for wanted in (False, True):
        model.checkpoint_activations(wanted)
        model.zero_grad()
        model(x).log_prob.sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@every_system
def test_logits_are_never_rounded_to_half_precision(system):
    model, x = SYSTEMS[system](8), images(4, 8)
    model.initialise(x)
    with torch.no_grad():
        exact = model(x).log_prob
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(x).log_prob
            assert model.logits(scale_to_unit(x)).dtype == torch.float32
    assert torch.allclose(rounded, exact, rtol=1e-3)


@every_system
def test_effective_weights_that_are_kept_change_nothing(system):
    model, x = make(system, 6), images(2, 6)
    with torch.no_grad():
        expected = model.log_prob_subpixels(x)
        with folded(model):
            assert torch.equal(model.log_prob_subpixels(x), expected)


# --- sizes and costs -----------------------------------------------------------------------------------------------------------------

PUBLISHED = {"masked_pixelcnn": 5_351_168, "gated_pixelcnn": 10_449_664, "pixelrnn": 9_052_928}
SMALL = {
    "masked_pixelcnn": ({"channels": 16, "blocks": 4, "head": 64}, 75_680),
    "gated_pixelcnn": ({"channels": 16, "layers": 4, "kernel": 3, "head": 64}, 72_416),
    "pixelrnn": ({"channels": 16, "layers": 2, "head": 64}, 84_000),
}


def with_sizes(params, system, **sizes):
    table1 = params.table1.model_copy(update={system: params.table1.sizes(system).model_copy(update=sizes)})
    compute = params.compute.model_copy(update={"precision": "float32"})
    return params.model_copy(update={"table1": table1, "compute": compute})


def on_meta(root, system, sizes):
    """Parameters, and a network without storage, of the published sizes, small ones, or those of the preset tiny."""
    params = config.load(root / "params.yaml", "tiny" if sizes == "tiny" else "paper")
    params = with_sizes(params, system, **(SMALL[system][0] if sizes == "small" else {}))
    with torch.device("meta"):
        return params, Cell(system, resolution=params.prepare.image_size), make_model(system, params, params.prepare.image_size)


@every_system
@pytest.mark.parametrize("sizes", ["published", "small", "tiny"])
def test_counts_are_those_of_the_real_network(root, system, sizes):
    params, cell, model = on_meta(root, system, sizes)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(blank(params.prepare.image_size))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sum(network_costs.parameters(params, cell).values()) == count
    assert sizes == "tiny" or count == {"published": PUBLISHED[system], "small": SMALL[system][1]}[sizes]
    assert sum(network_costs.multiply_adds(params, cell).values()) == counter.get_total_flops() // 2


@every_system
@pytest.mark.parametrize("sizes", ["small", "tiny"])
def test_memory_is_estimated_well_enough_to_plan_with(root, system, sizes):
    """Within a quarter for a training step, within a factor of two for an evaluation."""
    params, cell, model = on_meta(root, system, sizes)
    one, two = (blank(params.prepare.image_size, batch) for batch in (1, 2))
    assert network_costs.kept_bytes(params, cell) == pytest.approx(_saved_bytes(model, two) - _saved_bytes(model, one), rel=0.25)
    model.eval().likelihood_dtype = torch.float64

    def peak(x):
        with torch.no_grad(), Peak() as watched:
            model(x)
        return watched.most

    assert 0.5 < network_costs.working_bytes(params, cell) / (peak(two) - peak(one)) < 2


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel 4; accepted: an odd number"):
        GatedPixelCNNModel(kernel=4)
