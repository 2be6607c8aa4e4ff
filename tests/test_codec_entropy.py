"""The entropy coder: exact inverses, arithmetic that is the same everywhere, probabilities that are those of the model."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from agave.codec.bins import SLOT_BITS, WIDTH, Bins
from agave.codec.entropy import (
    LOWEST,
    Exhausted,
    Stack,
    distance_to_boundary,
    exp,
    normal_cdf,
    round_to_grid,
    tanh,
)
from agave.codec.pixels import PRECISION, VALUES, PixelDistributions, code_lengths, pixel_intervals, pop_pixels, push_pixels
from agave.likelihoods import mixture_log_prob


class Known:
    """Logits that are known beforehand, as a network."""

    def __init__(self, logits):
        self.of, self.row = logits, 0

    def start_row(self, row):
        self.row = row

    def logits(self, column):
        return self.of[:, :, self.row, column]

    def write(self, column, pixel):
        pass

    def end_row(self):
        pass


@st.composite
def symbols(draw):
    precision = draw(st.integers(1, 32))
    frequency = draw(st.one_of(st.just(1), st.just(1 << precision), st.integers(1, 1 << precision)))
    return precision, draw(st.integers(0, (1 << precision) - frequency)), frequency


@settings(max_examples=60, deadline=None)
@given(st.lists(symbols(), max_size=60), st.integers(LOWEST, (1 << 64) - 1))
def test_popping_undoes_pushing(pushed, state):
    stack = Stack([7, 65535], state)
    before = stack.copy()
    for precision, start, frequency in pushed:
        stack.push([start], [frequency], precision)
        assert LOWEST <= stack.state < 1 << 64
    for precision, start, frequency in reversed(pushed):
        (found,) = stack.pop(1, precision, lambda index, slot, start=start, frequency=frequency: (slot, start, frequency))
        assert start <= found < start + frequency
    assert stack == before


@settings(max_examples=60, deadline=None)
@given(st.lists(symbols(), min_size=1, max_size=30), st.integers(0, 2**32))
def test_pushing_undoes_popping(popped, seed):
    """What bits back needs: the bits that were taken come back."""
    stack = Stack(np.random.default_rng(seed).integers(0, 65536, 100).tolist(), LOWEST + seed)
    before, slots = stack.copy(), []
    for precision, _, frequency in popped:
        frequency = 1 << (frequency.bit_length() - 1)  # a power of two, so that the interval of a slot is known
        (slot,) = stack.pop(1, precision, lambda index, slot, f=frequency: (slot, slot // f * f, f))
        slots.append((precision, slot // frequency * frequency, frequency))
    for precision, start, frequency in reversed(slots):
        stack.push([start], [frequency], precision)
    assert stack == before


def test_the_length_is_the_ideal_one():
    numbers = np.random.default_rng(0)
    frequencies = np.exp(numbers.uniform(0, PRECISION * math.log(2), 100_000)).astype(int)
    starts = (numbers.random(len(frequencies)) * ((1 << PRECISION) - frequencies)).astype(int)
    stack = Stack()
    stack.push(starts.tolist(), frequencies.tolist(), PRECISION)
    ideal = (PRECISION - np.log2(frequencies)).sum()
    assert abs(16 * len(stack.words) + math.log2(stack.state) - 48 - ideal) < 1e-5 * ideal


def test_an_empty_stack_is_noticed():
    with pytest.raises(Exhausted):
        Stack().pop_raw(10, 16)


def test_functions_are_accurate():
    x = np.random.default_rng(0).uniform(-360, 360, 100_000)
    exact = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(exp(x) / exact - 1)) < 4e-16
    near = x / 40
    assert np.max(np.abs(tanh(near) - np.tanh(near))) < 5e-16
    assert np.max(np.abs(normal_cdf(near) - ndtr(near))) < 4e-16
    assert normal_cdf(np.array([-np.inf, np.inf])) == pytest.approx([0, 1], abs=1e-290)


def test_arithmetic_is_the_same_everywhere():
    """The bits of a few values: an instruction that rounds otherwise, or another order of operations, shows."""
    x = np.array([-350.0, -1.0, -1e-9, 0.3, 2.5, 100.0])
    assert [value.hex() for value in exp(x)] == GOLDEN["exp"]
    assert [value.hex() for value in normal_cdf(np.array([-9.0, -1.5, 0.1, 3.0]))] == GOLDEN["normal_cdf"]
    numbers = np.random.Generator(np.random.PCG64(0))
    logits = np.round(numbers.random((40, 20)) * 2**14) / 2**12 - 2  # exact in binary
    distributions, values = PixelDistributions(logits), (np.arange(40) * 6) % 256
    found = []
    for _ in range(3):
        starts, frequencies = distributions.intervals(values)
        found += [int(starts.sum()), int((frequencies * np.arange(40)).sum())]
    assert found == GOLDEN["pixels"]
    bins = Bins(6)
    assert bins._limits(np.arange(0, 64, 9), np.linspace(-2, 2, 8), np.linspace(0.5, 9, 8)).tolist() == GOLDEN["bins"]


GOLDEN = {
    "exp": [
        "0x1.0a44a100cac19p-505",
        "0x1.78b56362cef38p-2",
        "0x1.fffffff768fa1p-1",
        "0x1.599058c8c1a96p+0",
        "0x1.85d6fd931e0bbp+3",
        "0x1.3494a9b171bf5p+144",
    ],
    "normal_cdf": ["0x1.0a7afb9869ea9p-63", "0x1.11a46d89647efp-4", "0x1.1464507526871p-1", "0x1.ff4f10f033d25p-1"],
    "pixels": [287870944, 18339358, 274043546, 15091952, 342178498, 16020077],
    "bins": [
        [0, 28588313, 50714793, 87660129, 150735539, 245854275, 268434773, 268435328],
        [33360008, 41695693, 72367541, 121423354, 193121749, 262014525, 268435326, 268435328],
    ],
}


@pytest.mark.parametrize("offset", [0, 1, 200])
def test_rounding_has_boundaries_where_it_says(offset):
    values = np.random.default_rng(0).normal(0, 3, 10_000)
    rounded, distance = round_to_grid(values, offset), distance_to_boundary(values, offset)
    assert np.abs(rounded - values).max() <= 2**-15 * (1 + 1e-9)
    assert (round_to_grid(values + 0.99 * distance, offset) == rounded).all() and (
        round_to_grid(values - 0.99 * distance, offset) == rounded
    ).all()
    moved = np.where(values < rounded, -1.01, 1.01) * distance
    assert (round_to_grid(values + moved, offset) != rounded).all()


EXTREMES = {
    "narrow": {"log_scale": -50.0},
    "wide": {"log_scale": 90.0},
    "far above": {"mean": 1e6},
    "far below": {"mean": -1e6, "log_scale": -50.0},
    "one component": {"weight": 500.0},
    "no mass": {"log_scale": 80.0, "mean": -1e6},
}


@pytest.mark.parametrize("extreme", EXTREMES)
def test_every_value_can_be_coded(extreme):
    logits = np.random.default_rng(0).normal(0, 1, (50, 50))
    groups = logits[:, 5:].reshape(50, 3, 3, 5)
    for name, value in EXTREMES[extreme].items():
        if name == "weight":
            logits[:, 2] = value
        else:
            groups[:, :, ["mean", "log_scale"].index(name)] = value
    distributions = PixelDistributions(round_to_grid(logits))
    for _ in range(3):
        table = distributions.tables()
        assert (table[:, 0] == 0).all() and (table[:, VALUES] == 1 << PRECISION).all() and (np.diff(table) >= 1).all()
        values = np.random.default_rng(1).integers(0, VALUES, 50)
        starts, frequencies = distributions.intervals(values)
        assert (starts == table[np.arange(50), values]).all() and (starts + frequencies == table[np.arange(50), values + 1]).all()


@cache
def sampled(count, size, mixtures):
    """Logits like those of a trained network, and images that they make likely."""
    numbers = np.random.default_rng(3)
    logits = numbers.normal(0, 0.5, (count, 10 * mixtures, size, size))
    groups = logits[:, mixtures:].reshape(count, 3, 3, mixtures, size, size)
    groups[:, :, 1] -= numbers.uniform(1, 6, groups[:, :, 1].shape)
    groups[:, 1:, 0] += 0.2
    stack = Stack(numbers.integers(0, 65536, count * size * size * 9).tolist())
    return logits, pop_pixels(stack, Known(logits), (count, size, size), 0)


@pytest.mark.parametrize("mixtures", [1, 5])
def test_lengths_are_those_of_the_likelihood(mixtures):
    logits, x = sampled(6, 8, mixtures)
    _, frequencies = pixel_intervals(logits, x, 0)
    likely = frequencies.min((1, 2, 3)) > 100  # every value has two slots of 2^24, which the likelihood does not know
    assert likely.sum() >= 5
    logits, x, frequencies = logits[likely], x[likely], frequencies[likely]
    bits = -mixture_log_prob(torch.from_numpy(logits), torch.from_numpy(x)).sum((1, 2)).numpy() / math.log(2)
    assert code_lengths(frequencies) == pytest.approx(bits, rel=1e-4)
    assert code_lengths(frequencies).sum() == pytest.approx(bits.sum(), rel=2e-5)


def test_images_come_back():
    logits, x = sampled(3, 8, 3)
    stack = Stack([1, 2, 3], LOWEST + 99)
    before = stack.copy()
    push_pixels(stack, *pixel_intervals(logits, x, 7))
    assert (pop_pixels(stack, Known(logits), (3, 8, 8), 7) == x).all() and stack == before


@pytest.mark.parametrize("bits", [1, 4, 10])
def test_bins_are_popped_with_their_probabilities_and_pushed_back(bits):
    numbers = np.random.default_rng(0)
    mean, inverse_deviation = numbers.normal(0, 1, 4000), np.exp(numbers.normal(1, 1, 4000))
    mean[:5], inverse_deviation[:5] = 64.0, np.exp(20.0)
    bins, stack = Bins(bits), Stack(numbers.integers(0, 65536, 8000).tolist())
    before = stack.copy()
    found, costs = bins.pop(stack, mean, inverse_deviation)
    taken = 16 * (len(before.words) - len(stack.words)) + math.log2(before.state / stack.state)
    assert taken == pytest.approx(costs.sum(), abs=0.5 + 4000 * 2**-9)
    limits = bins._limits(found, mean, inverse_deviation)
    assert (costs == SLOT_BITS - np.log2(2 + limits[1] - limits[0])).all()
    bins.push(stack, found, mean, inverse_deviation)
    assert stack == before


@pytest.mark.parametrize("bits", [0, 17])
def test_a_number_of_bins_is_refused(bits):
    with pytest.raises(ValueError, match=r"accepted: 1 to 16"):
        Bins(bits)


def test_bins_come_back_from_the_prior_and_cost_what_it_says():
    bins, numbers = Bins(8), np.random.default_rng(0)
    assert np.diff(ndtr(bins._edges / WIDTH)) == pytest.approx(1 / 256, abs=1e-9)
    masses = np.diff(ndtr(bins._edges))
    assert 2.0**-bins.costs == pytest.approx(masses, abs=2e-6) and (2.0**-bins.costs).sum() == pytest.approx(1, abs=1e-12)
    assert bins.entropy == pytest.approx(-(masses * np.log2(masses)).sum(), abs=1e-4) and bins.entropy < 8
    stack = Stack(numbers.integers(0, 65536, 20).tolist())
    before, chosen = stack.copy(), bins.of_slots(numbers.integers(0, 1 << SLOT_BITS, 20_000))
    z = bins.middles[chosen]
    assert abs(z.mean()) < 4 / len(z) ** 0.5 and z.std() == pytest.approx(1, rel=0.03)
    bins.push_prior(stack, chosen)
    added = 16 * (len(stack.words) - len(before.words)) + math.log2(stack.state / before.state)
    assert added == pytest.approx(bins.costs[chosen].sum(), abs=0.5)
    assert (bins.pop_prior(stack, len(chosen)) == chosen).all() and stack == before


@pytest.mark.parametrize("far", [-4.5, 0.0, 4.5])
def test_bins_tell_where_z_lies_in_the_tails_of_the_prior_too(far):
    """The middle of its bin is close to z, in units of the prior."""
    bins, count = Bins(8), 2000
    stack = Stack(np.random.default_rng(0).integers(0, 65536, 2 * count).tolist(), LOWEST + 123_456_789)
    found, _ = bins.pop(stack, np.full(count, far), np.full(count, 1e4))
    assert np.abs(bins.middles[found] - far).max() < 0.15


def test_popped_bins_have_the_moments_of_their_distribution():
    bins, count = Bins(8), 20_000
    stack = Stack(np.random.default_rng(0).integers(0, 65536, 2 * count).tolist())
    found, _ = bins.pop(stack, np.full(count, 0.7), np.full(count, 1 / 0.4))
    z = bins.middles[found]
    assert z.mean() == pytest.approx(0.7, abs=4 * 0.4 / count**0.5) and z.std() == pytest.approx(0.4, rel=0.03)


def test_another_coder_needs_as_many_bits():
    """constriction codes the same distributions; its table of an image would be 3,072 x 256 numbers, ours are a few."""
    constriction = pytest.importorskip("constriction")
    logits, x = (one[:2] for one in sampled(3, 8, 3))
    _, frequencies = pixel_intervals(logits, x, 0)
    coder = constriction.stream.stack.AnsCoder()
    for image in range(2):
        for row, column in np.ndindex(8, 8):
            distributions = PixelDistributions(round_to_grid(logits[image : image + 1, :, row, column]))
            for colour in range(3):
                value = x[image : image + 1, colour, row, column].astype(np.int64)
                masses = np.diff(distributions.tables()[0]) / float(1 << PRECISION)
                coder.encode_reverse(value.astype(np.int32), constriction.stream.model.Categorical(masses, perfect=False))
                distributions.observe(value)
    assert coder.num_bits() == pytest.approx(code_lengths(frequencies).sum(), abs=2 * 40)
