"""The window-limited PixelCNN: which pixels a pixel sees, and that it can be computed on its window alone."""

import pytest
import torch

from agave.likelihoods import mixture_log_prob
from agave.models.layers import data_dependent_initialisation
from agave.models.window_pixelcnn import COLUMNS_ASIDE, ROWS_ABOVE, WindowPixelCNN
from agave.random_numbers import PIXELS, KeyedNumbers
from agave.sampling import sample_in_windows


def network(sets=2, features=3, size=9):
    torch.manual_seed(1)
    model = WindowPixelCNN(sets, 4, 2, features).double()
    with torch.no_grad(), data_dependent_initialisation(model):
        model(2 * torch.rand(8, 3, size, size).double() - 1, torch.randn(8, features, size, size).double() if features else None)
    for block in model.modules():  # strong gates and injections: every dependence shows
        if hasattr(block, "conv2"):
            block.conv2.gain.data.fill_(1)
    return model


def seen(model, size, row, column):
    """Pixels that the logits of a pixel depend on: (size, size)."""
    x = (2 * torch.rand(1, 3, size, size).double() - 1).requires_grad_()
    features = torch.randn(1, 3, size, size).double()
    weights = torch.randn(20).double()
    (model(x, features)[0, :, row, column] @ weights).backward()
    return (x.grad[0] != 0).any(0)


@pytest.mark.parametrize("sets", [1, 3])
def test_the_window_is_the_published_one(oracle, sets):
    reference = oracle("table1/o10_receptive_fields.npz")
    support = seen(network(sets), 25, *reference["target"])
    assert support.numpy().tolist() == reference["window_7x4"].tolist()


@pytest.mark.parametrize("sets", [1, 3])
def test_the_window_is_seven_by_four_and_three_to_the_left(sets):
    row, column, expected = 7, 6, torch.zeros(13, 13, dtype=torch.bool)
    expected[row - ROWS_ABOVE : row, column - COLUMNS_ASIDE : column + COLUMNS_ASIDE + 1] = True
    expected[row, column - COLUMNS_ASIDE : column] = True
    assert expected.sum() == 7 * 4 + 3
    assert torch.equal(seen(network(sets), 13, row, column), expected)


def test_a_sub_pixel_sees_itself_and_later_ones_neither_in_its_logits_nor_in_earlier_log_probabilities():
    model, size = network(), 5
    x = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    features = torch.randn(1, 3, size, size).double()

    def log_prob(image):
        logits = model(image.double() / 127.5 - 1, features)
        return logits[0].flatten(1), mixture_log_prob(logits, image)[0].flatten()

    logits, before = log_prob(x)
    for place in range(size * size):
        for colour in range(3):
            changed = x.clone()
            changed[0, colour, place // size, place % size] ^= 128
            other_logits, after = log_prob(changed)
            assert torch.equal(logits[:, : place + 1], other_logits[:, : place + 1])
            assert torch.equal(before[:place], after[:place]) and before[place] != after[place]
            if place % size < size - 1:
                assert not torch.equal(logits[:, place + 1], other_logits[:, place + 1])


def test_a_later_set_is_conditioned_on_the_earlier_ones():
    model = network(3)
    x, features = 2 * torch.rand(1, 3, 6, 6).double() - 1, torch.randn(1, 3, 6, 6).double()
    model.out.direction.data[:, :8] = 0  # only the last set is read
    before = model(x, features)
    for earlier in (0, 1):
        changed = network(3)
        changed.out.direction.data[:, :8] = 0
        changed.sets[earlier]["first"]["u"].bias.data += 1
        assert (changed(x, features) - before).abs().max() > 1e-6


def test_without_features_it_is_an_unconditional_network():
    model, alone = network(), WindowPixelCNN(2, 4, 2, 0).double()
    missing, added = alone.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all(".inject." in name for name in added)
    x = 2 * torch.rand(2, 3, 6, 6).double() - 1
    assert torch.equal(model(x), alone(x))
    assert not torch.equal(model(x, torch.randn(2, 3, 6, 6).double()), alone(x))


def test_the_logits_of_a_pixel_computed_on_its_window_are_those_of_the_whole_image():
    model, size = network(), 9
    x, features = 2 * torch.rand(2, 3, size, size).double() - 1, torch.randn(2, 3, size, size).double()
    with torch.no_grad():
        whole = model(x, features)
        for row in range(size):
            for column in range(size):
                x[:, :, row, column:], kept = 0, x[:, :, row, column:].clone()  # the pixel itself and later ones do not count
                assert torch.allclose(model.logits_of_pixel(x, features, row, column), whole[:, :, row, column], rtol=1e-10, atol=1e-12)
                x[:, :, row, column:] = kept


def test_images_drawn_window_by_window_are_those_drawn_from_whole_images():
    from agave.likelihoods import sample_mixture

    model, size = network(size=6), 6
    features = torch.randn(2, 3, size, size).double()
    drawn = sample_in_windows(model, features, seed=3, first=4, stream=PIXELS)
    x = torch.zeros(2, 3, size, size).double()
    noise = KeyedNumbers(3, PIXELS, [4, 5]).uniform(0, (2, size, size, 2 + 3), x)
    with torch.no_grad():
        for row in range(size):
            for column in range(size):
                uniforms = noise[:, row, column]
                x[:, :, row, column] = sample_mixture(model(x, features)[:, :, row, column], uniforms[:, :-3], uniforms[:, -3:])
    assert torch.equal(drawn, torch.round(x * 127.5 + 127.5).to(torch.uint8))
    assert torch.equal(drawn[1:], sample_in_windows(model, features[1:], seed=3, first=5, stream=PIXELS))


def test_compiled_kernels_and_torch_agree():
    """float32 on a CPU takes the compiled kernels, float64 torch's own operations."""
    model = network()
    x, features = 2 * torch.rand(2, 3, 8, 8) - 1, torch.randn(2, 3, 8, 8)
    exact = model(x.double(), features.double())
    assert torch.allclose(model.float()(x, features).double(), exact, rtol=1e-4, atol=1e-4)
