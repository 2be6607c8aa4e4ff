"""The claims: their file, the intervals behind a verdict, the measurements, and the checks of the networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_results import write_results

from agave import claims, config, tables
from agave.claims import Accept, Claim, decide, load, measures, network_properties, write_claims
from agave.claims.comparisons import COMPARISONS, intervals
from agave.claims.evidence import MEASURES, Evidence, Measured
from agave.errors import UserError
from agave.results import Results, per_image_path

ROOT = Path(__file__).parents[1]


def only(means):
    return means[..., 0]


def test_every_claim_of_the_paper_is_there_once_and_every_word_of_the_vocabulary_is_used():
    found = load(ROOT / "claims.yaml")
    assert [claim.id for claim in found] == [f"C{number}" for number in range(1, 31)]
    tests = [test for claim in found for test in claim.tests]
    assert {test.measure for test in tests} == set(MEASURES)
    assert {test.compare for test in tests} == set(COMPARISONS)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("measure: iwae,", "measure: iwea,", r"C1: tests.0: Value error, measure 'iwea'; accepted: kl, "),
        ("compare: each", "compare: eech", r"C1: tests.0: Value error, compare 'eech'; accepted: each"),
        ("{below: 2.925}", "{below: 2.925, above: 1}", "one of above, below and within"),
        ("needs: published", "needs: luck", "C1: needs"),
        ("- id: C2\n", "- id: C1\n", "given twice"),
        ("- id: C1\n", "  id: C1\n", "no valid YAML"),
    ],
)
def test_a_wrong_file_is_named_with_the_claim(old, new, problem, tmp_path):
    text = (ROOT / "claims.yaml").read_text()
    assert old in text
    (tmp_path / "claims.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=problem):
        load(tmp_path / "claims.yaml")


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Five seeds with noise of their own and 40 images: the difference of two models is 1."""
    generator = np.random.default_rng(0)
    covered = []
    for seed in range(200):
        difficulty = generator.normal(0, 5, (1, 40, 1))  # shared by both models: paired
        of_training = generator.normal(0, 0.3, (5, 1, 2))
        own = generator.normal(0, 0.5, (1, 40, 2))
        samples = np.array([2.0, 3.0]) + difficulty + of_training + own
        measured = Measured(samples[..., None], only, "")
        value, ((low, high),) = intervals(measured, np.array([[-1.0, 1.0]]), [0.95], seed)
        assert low[0] <= value[0] <= high[0]
        covered.append(low[0] <= 1 <= high[0])
    assert 0.85 < np.mean(covered) < 0.99  # five seeds give a little less than 95 %


def test_without_anything_sampled_the_interval_is_the_value():
    value, ((low, high),) = intervals(Measured(np.full((1, 1, 2, 1), 3.0), only, ""), np.eye(2), [0.95])
    assert np.array_equal(value, low) and np.array_equal(value, high)


class Made(Evidence):
    """One measurement, made up, in the place of all results."""

    def __init__(self, params, samples):
        self.params, self.made = params, Measured(samples, only, "made up", tuple("abcdefgh"[: samples.shape[2]]))

    def measure(self, name, chosen):
        return self.made


def verdict(differences, accept, compare="each"):
    """Of a claim about values with these means, 100 images, standard deviation 1."""
    noise = np.random.default_rng(1).normal(0, 1, (1, 100, 1))
    samples = (np.array(differences) + noise - noise.mean())[..., None]
    entry = {"id": "C1", "where": "", "claim": "", "tests": [{"measure": "future_pixels", "compare": compare, "accept": accept}]}
    return decide(Claim.model_validate(entry), Made(config.load(ROOT / "params.yaml", "tiny"), samples)).verdict


def test_a_verdict_needs_the_whole_interval():
    assert verdict([1.0], {"above": 0}) == "holds"
    assert verdict([-1.0], {"above": 0}) == "does not hold"
    assert verdict([0.05], {"above": 0}) == "undecided"
    assert verdict([0.05], {"within": [-1, 1]}) == "holds"
    assert verdict([0.95], {"within": [-1, 1]}) == "undecided"
    assert verdict([1.0, 1.0, -1.0], {"above": 0}) == "does not hold"
    assert verdict([1.0, 1.0, 0.05], {"above": 0}) == "undecided"
    assert verdict([3.0, 2.0, 1.0], {"below": 0}, "steps") == "holds"  # the noise is shared: the steps are exact
    assert verdict([3.0, 2.0, 2.0], {"below": 0}, "steps") == "does not hold"


def test_one_of_many_comparisons_must_miss_by_more_to_refute_a_claim():
    alone = verdict([-0.21], {"above": 0})
    among_many = verdict([-0.21, *[1.0] * 7], {"above": 0})
    assert (alone, among_many) == ("does not hold", "undecided")


def test_comparisons_are_linear_functions_of_the_cells():
    values = np.array([5.0, 3.0, 2.0, 1.5])
    wanted = {
        "each": values,
        "last": [1.5],
        "steps": [-2, -1, -0.5],
        "first_step": [-2],
        "later_steps": [-1, -0.5],
        "later_steps_minus_first_step": [1, 1.5],
        "others_minus_first": [-2, -3, -3.5],
        "last_minus_first": [-3.5],
    }
    for name, compare in COMPARISONS.items():
        labels, matrix = compare(list("abcd"))
        assert matrix @ values == pytest.approx(wanted[name]) and len(labels) == len(matrix), name


@pytest.fixture
def results(tmp_path):
    params = config.load(ROOT / "params.yaml", "demo")
    write_results(params, tmp_path / "demo")
    tables.write_tables(params, "demo", tmp_path / "demo")
    return params, tmp_path / "demo"


def test_made_up_results_that_move_as_the_paper_says_hold(results):
    params, folder = results
    found = {one.claim.id: one for one in write_claims(params, "demo", folder, ROOT / "claims.yaml")}
    assert all(found[name].verdict == "holds" for name in ("C3", "C4", "C5", "C6", "C7", "C8", "C10", "C11", "C15", "C26", "C28", "C30"))
    assert found["C1"].verdict == "not testable at this scale" and "preset paper" in found["C1"].basis
    text = (folder / "claims/claims.md").read_text()
    assert text.count("\n| C") == 30
    holding = sum(one.verdict == "holds" for one in found.values())
    assert text.splitlines()[2].startswith(f"{holding} holds, ")
    rows = (folder / "claims/claims.csv").read_text().splitlines()
    assert len(rows) > 30 and rows[0].startswith("id,verdict,where,claim,basis,measure,comparison,value,low,high,accepted")
    first = (folder / "claims/claims.csv").read_bytes()
    write_claims(params, "demo", folder, ROOT / "claims.yaml")
    assert (folder / "claims/claims.csv").read_bytes() == first


def test_results_that_move_the_other_way_do_not_hold(results):
    params, folder = results
    weights = claims.chosen_cells("kl_weights", params)
    first, last = (folder / per_image_path(cell, 0) for cell in (weights[0], weights[-1]))
    text = first.read_bytes()
    first.write_bytes(last.read_bytes())
    last.write_bytes(text)
    evidence = Evidence(Results(params, "demo", folder))
    found = {claim.id: decide(claim, evidence).verdict for claim in load(ROOT / "claims.yaml") if claim.id in ("C5", "C7", "C8")}
    assert found == {"C5": "does not hold", "C7": "does not hold", "C8": "does not hold"}


def test_a_missing_result_is_named(results):
    params, folder = results
    (folder / "evaluate/vae/seed~0/iwae.npz").unlink()
    with pytest.raises(UserError, match=r"evaluate/vae/seed~0/iwae.npz: there is no such file"):
        write_claims(params, "demo", folder, ROOT / "claims.yaml")


def test_a_model_that_the_grid_lacks_is_not_testable(results):
    params, folder = results
    grid = params.grid.model_copy(update={"without_auxiliary_kl_weight": None})
    evidence = Evidence(Results(params.model_copy(update={"grid": grid}), "demo", folder))
    (claim,) = (claim for claim in load(ROOT / "claims.yaml") if claim.id == "C25")
    decision = decide(claim, evidence)
    assert decision.verdict == "not testable at this scale" and "without_auxiliary" in decision.basis


@pytest.mark.parametrize("preset", ["tiny", "study"])
def test_every_preset_gets_a_verdict_on_every_claim(preset, tmp_path):
    params = config.load(ROOT / "params.yaml", preset)
    write_results(params, tmp_path / preset)
    tables.write_tables(params, preset, tmp_path / preset)
    found = {one.claim.id: one for one in write_claims(params, preset, tmp_path / preset, ROOT / "claims.yaml")}
    assert len(found) == 30
    if preset == "tiny":
        assert "too few kl_weights for later_steps" in found["C6"].basis  # two KL weights make one step


def pictures(count=5, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def test_shape_and_detail_make_up_an_image():
    images = pictures()
    shape = measures.low_passed(images).repeat(4, axis=1).repeat(4, axis=2)
    assert np.allclose(shape + measures.detail(images), images)
    assert measures.detail_power(np.full_like(images, 7)) == pytest.approx(np.zeros(5))


def test_known_differences():
    zero, six = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 6, np.uint8)
    assert measures.rms_difference(zero, six) == pytest.approx([6])
    assert measures.psnr(zero, six) == pytest.approx([20 * np.log10(255 / 6)])
    assert np.isfinite(measures.psnr(six, six)).all()
    values = np.random.default_rng(0).normal(size=(3, 8))
    assert measures.correlation(values, 2 * values + 1) == pytest.approx(np.ones(3))
    assert measures.correlation(values, -values) == pytest.approx(-np.ones(3))
    assert measures.correlation(values, np.ones((3, 8))) == pytest.approx(np.zeros(3))


def test_a_wave_has_its_power_at_its_frequency():
    wave = 127.5 + 100 * np.cos(2 * np.pi * 3 * np.arange(16) / 16)
    image = np.broadcast_to(wave[None, None, :, None], (1, 16, 16, 3)).round().astype(np.uint8)
    spectrum = measures.log_spectrum(image)
    assert spectrum.shape == (1, 8) and spectrum[0].argmax() == 2  # frequency 3


def test_the_checks_find_a_network_that_sees_the_future(monkeypatch):
    params = config.load(ROOT / "params.yaml", "tiny")
    assert max(network_properties.future_pixels(params).values()) == 0 and min(network_properties.future_features(params).values()) > 0
    honest = PixelCNNpp.forward
    monkeypatch.setattr(PixelCNNpp, "forward", lambda self, x, features=None: honest(self, torch.flip(x, (2,)), features))
    assert max(network_properties.future_pixels(params).values()) > 0


def test_the_range_of_an_acceptance():
    assert Accept(above=1).range == (1, float("inf")) and str(Accept(below=2)) == "< 2" and str(Accept(within=(0, 0))) == "= 0"
