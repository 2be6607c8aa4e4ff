"""The energy coefficient: known answers, intervals, and coarse images."""

import numpy as np
import pytest
from scipy.stats import energy_distance

from agave import energy
from agave.claims.power import shuffled
from agave.measures import COARSE, coarse, standardised


def interval(first, second, seed=0):
    found = energy.distances(first, second)
    value, ((low, high),) = energy.energy_bootstrap([found], lambda coefficients: coefficients, [0.95], seed)
    return float(value[0]), float(low[0]), float(high[0])


def even(*sizes):
    return [np.full((1, size), 1 / size) for size in sizes]


def test_on_a_line_it_is_the_energy_distance_of_scipy():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=30), generator.normal(1, 2, 40)
    found = energy.distances(first[None, :, None], second[:, None])
    across = found.across.mean()
    biased = 2 * across - found.first.mean() - found.second.mean()  # scipy's counts pairs of a point with itself
    assert biased == pytest.approx(energy_distance(first, second) ** 2)
    pairs = found.first.sum() / (30 * 29) + found.second.sum() / (40 * 39)
    assert energy.coefficient(found, *even(1, 30, 40))[0] == pytest.approx(1 - pairs / 2 / across)


def test_weights_count_points_as_if_they_were_there_twice():
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(2, 4, 3)), generator.normal(size=(5, 3))
    found = energy.distances(first, second)
    weights = np.array([[2, 0, 1, 1]]) / 4
    value = energy.coefficient(found, np.array([[1.0, 0.0]]), weights, even(5)[0])[0]
    across = found.across[0][[0, 0, 2, 3]].mean()
    inside = found.first[0][np.ix_([0, 0, 2, 3], [0, 0, 2, 3])].sum() / (16 - 2 * 2 - 1 - 1)  # pairs of different points
    assert value == pytest.approx(1 - (inside + found.second.sum() / 20) / (2 * across))


def test_equal_distributions_are_zero_apart_and_others_are_not():
    generator = np.random.default_rng(2)
    same = [interval(generator.normal(size=(1, 40, 6)), generator.normal(size=(40, 6)), seed) for seed in range(60)]
    assert np.mean([low <= 0 <= high for _, low, high in same]) >= 0.9
    assert abs(np.mean([value for value, _, _ in same])) < 0.003  # unbiased
    shifted = [interval(generator.normal(0.7, size=(1, 40, 6)), generator.normal(size=(40, 6)), seed) for seed in range(20)]
    assert min(low for _, low, _ in shifted) > 0
    wider = [interval(generator.normal(0, 2, size=(3, 40, 6)), generator.normal(size=(40, 6)), seed) for seed in range(20)]
    assert min(low for _, low, _ in wider) > 0


def test_the_difference_of_two_samples_of_one_law_is_covered_and_differs_less_than_each():
    """Trainings differ: a set is shifted by noise of its own."""
    generator = np.random.default_rng(3)
    covered = []
    for seed in range(60):
        second = generator.normal(size=(40, 5))
        both = [energy.distances(generator.normal(0.8, 1, (4, 40, 5)) + generator.normal(0, 0.2, (4, 1, 5)), second) for _ in range(2)]
        value, ((low, high),) = energy.energy_bootstrap(both, lambda found: found[..., 1:] - found[..., :1], [0.95], seed)
        assert low[0] <= value[0] <= high[0]
        covered.append(low[0] <= 0 <= high[0])
    assert np.mean(covered) > 0.85  # four seeds give a little less than 95 %


def test_identical_points_are_not_apart():
    assert interval(np.ones((1, 5, 2)), np.ones((6, 2))) == (0, 0, 0)


def test_coarse_images_are_means_of_squares():
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3)).astype(np.uint8)  # squares of 2 x 2, a border of 4 left out
    found = coarse(images).reshape(3, COARSE, COARSE, 3)
    assert found.dtype == np.uint8
    assert found[1, 2, 3] == pytest.approx(images[1, 4:6, 6:8].mean((0, 1)), abs=0.5)


def test_waves_have_the_spread_of_the_reference():
    generator = np.random.default_rng(4)
    reference = generator.integers(0, 256, (50, COARSE**2 * 3)).astype(np.uint8)
    assert standardised(reference, reference).std(0) == pytest.approx(np.ones(COARSE**2 * 3))
    flat = np.full((4, COARSE**2 * 3), 7, np.uint8)
    assert np.isfinite(standardised(flat, flat)).all()


def test_shuffled_squares_are_told_apart_from_images():
    """Smooth images keep their colours when their squares are shuffled, but not their waves."""
    generator = np.random.default_rng(5)
    waves = np.cumsum(np.cumsum(generator.normal(size=(200, COARSE, COARSE, 3)), 1), 2)
    images = (128 + 40 * waves / waves.std()).clip(0, 255).astype(np.uint8).reshape(200, -1)
    mixed = shuffled(images[::2])
    assert np.array_equal(np.sort(mixed.reshape(100, -1, 3), axis=1), np.sort(images[::2].reshape(100, -1, 3), axis=1))
    same, low, high = interval(standardised(images[None, ::2], images), standardised(images[1::2], images))
    assert low <= 0 <= high
    assert interval(standardised(mixed[None], images), standardised(images[1::2], images))[1] > high > same
