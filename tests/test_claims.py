"""The claims: their file, the intervals behind a verdict, the measurements, and the properties of the networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_results import write_results

from agave import config, grid, measures, presets, published, tables
from agave.bootstrap import crossed_bootstrap
from agave.claims import decide, load, network_properties, write_claims
from agave.claims.comparisons import COMPARISONS
from agave.claims.decide import settled
from agave.claims.evidence import MEASURES, PROPERTIES, Evidence, Measured, NotTestableError
from agave.claims.language import Accept, Claim, Models
from agave.claims.power import SAME, SHUFFLED
from agave.csv_tables import read_table
from agave.errors import UserError
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.results import CLAIMS, POWER, Results, measures_path, per_image_path
from agave.schemas import CLAIMS_SCHEMA, POWER_SCHEMA
from agave.steps import claims as step

ROOT = Path(__file__).parents[1]


def only(means):
    return means[..., 0]


def test_every_claim_of_the_paper_is_there_once_and_every_word_of_the_vocabulary_is_used():
    found = load(ROOT / "claims.yaml")
    assert [claim.id for claim in found] == [f"C{number}" for number in range(1, 33)]
    tests = [test for claim in found for test in claim.tests]
    assert {test.measure for test in tests} == set(MEASURES)
    assert {test.compare for test in tests} == set(COMPARISONS)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("measure: iwae,", "measure: iwea,", r"C1: tests.0: Value error, measure 'iwea'; accepted: kl, "),
        ("compare: each", "compare: eech", r"C1: tests.0: Value error, compare 'eech'; accepted: each"),
        ("{below: 2.925}", "{below: 2.925, above: 1}", "one of above, below and within"),
        (
            "models: [{kl_weight: 12}], compare: each",
            "models: [], compare: each",
            r"C1: tests.0: .*measure 'iwae' of 0 models; accepted: some",
        ),
        ("{kl_weight: 12}", "{kl_wieght: 12}", r"C1: tests.0.models.0.*"),
        ("{kl_weight: 12}", "{kl_weight: [larger, 12]}", r"accepted: values, after the last of which may stand 'larger'"),
        ("{kl_weight: 12}", "{kl_weight: any, levels: any}", r"kl_weight and levels; accepted: several values of one of the two"),
        ("{kl_weight: 12}", "{kind: pixelcnn_pp, kl_weight: 12}", r"accepted: a value for agave and vae, none for the others"),
        ("needs: published", "needs: luck", "C1: needs"),
        ("- id: C2\n", "- id: C1\n", "given twice"),
        ("- id: C1\n", "  id: C1\n", "not valid YAML"),
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
        value, ((low, high),) = crossed_bootstrap(samples, lambda means: means[..., 1:] - means[..., :1], [0.95], seed)
        assert low[0] <= value[0] <= high[0]
        covered.append(low[0] <= 1 <= high[0])
    assert 0.85 < np.mean(covered) < 0.99  # five seeds give a little less than 95 %


def test_without_anything_sampled_the_interval_is_the_value():
    value, ((low, high),) = crossed_bootstrap(np.full((1, 1, 2), 3.0), lambda means: means, [0.95])
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


def test_no_verdict_hangs_on_the_last_digit_of_a_sum():
    """What is equal in theory differs by rounding, and by which sign depends on the order of the sum, and so on the CPU."""
    generator = np.random.default_rng(3)
    noise = generator.normal(0, 1, 101)
    for _ in range(12):
        values = np.array([0.1, 0.2, 0.3]).cumsum()[-1] + generator.permutation(noise)[None, :, None]
        samples = np.concatenate([values, 0.1 + 0.2 + 0.3 + values - 0.6 + generator.choice([-1, 1]) * 2e-16 * np.abs(values)], axis=2)
        for accept, expected in (({"below": 0}, "does not hold"), ({"above": 0}, "does not hold"), ({"within": [0, 0.1]}, "holds")):
            entry = {"id": "C1", "where": "", "claim": "", "tests": [{"measure": "future_pixels", "compare": "steps", "accept": accept}]}
            decision = decide(Claim.model_validate(entry), Made(config.load(ROOT / "params.yaml", "tiny"), samples[..., None]))
            assert decision.verdict == expected
            (one,) = decision.comparisons
            assert (one.value, one.low, one.high) == (0, 0, 0)


def test_numbers_settle_on_a_limit_only_within_rounding():
    accept = Accept(within=(-0.01, 0.01))
    assert settled(np.array([0.01 + 1e-15, 0.0, -0.01 - 1e-15]), 4.0, accept) == [0.01, 0.0, -0.01]
    assert settled(np.array([0.0100001, 1e-7, 3.0]), 4.0, accept) == [0.0100001, 1e-7, 3.0]
    assert settled(np.array([1e-12, 2e-12]), 1e-12, Accept(above=0)) == [1e-12, 2e-12]  # small numbers of small things stay


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
        "later_steps_minus_first_step": [1, 1.5],
        "others_minus_first": [-2, -3, -3.5],
        "last_minus_others": [-3.5, -1.5, -0.5],
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
    assert text.count("\n| C") == 32
    holding = sum(one.verdict == "holds" for one in found.values())
    assert text.splitlines()[2].startswith(f"{holding} holds, ")
    rows = (folder / "claims/claims.csv").read_text().splitlines()
    assert len(rows) > 30 and rows[0].startswith("id,verdict,where,claim,basis,measure,comparison,value,low,high,accepted")
    first = (folder / "claims/claims.csv").read_bytes()
    write_claims(params, "demo", folder, ROOT / "claims.yaml")
    assert (folder / "claims/claims.csv").read_bytes() == first


def test_results_that_move_the_other_way_do_not_hold(results):
    params, folder = results
    weights = grid.kl_weight_cells(params)
    first, last = (folder / per_image_path(cell, 0) for cell in (weights[0], weights[-1]))
    text = first.read_bytes()
    first.write_bytes(last.read_bytes())
    last.write_bytes(text)
    evidence = Evidence(Results(params, "demo", folder))
    found = {claim.id: decide(claim, evidence).verdict for claim in load(ROOT / "claims.yaml") if claim.id in ("C5", "C7", "C8")}
    assert found == {"C5": "does not hold", "C7": "does not hold", "C8": "does not hold"}


def test_image_claims_take_all_seeds(tmp_path):
    params = with_grid(config.load(ROOT / "params.yaml", "demo"), seeds=[0, 1, 2])
    write_results(params, tmp_path)
    evidence = Evidence(Results(params, "demo", tmp_path))
    cells = grid.kl_weight_cells(params)
    found = evidence.measure("reconstruction_psnr", cells)
    assert found.samples.shape == (3, 8, len(cells), 1) and found.basis == "8 images, 3 seeds"
    assert evidence.measure("sample_energy", cells).found[0].across.shape == (3, 8, 8)
    path = tmp_path / measures_path(cells[0], 2)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"reconstruction_psnr": arrays["reconstruction_psnr"] + 9})  # one training of three is better
    moved = Evidence(Results(params, "demo", tmp_path)).measure("reconstruction_psnr", cells)
    assert moved.reduce(moved.samples.mean((0, 1)))[0] == pytest.approx(found.reduce(found.samples.mean((0, 1)))[0] + 3)
    widths = [(high - low)[0] for one in (found, moved) for _, ((low, high),), _ in [one.compare(np.eye(len(cells)), [0.95])]]
    assert widths[1] > 1.2 * widths[0] + 2  # the noise of training is in the interval
    np.savez(path, **{name: array for name, array in arrays.items() if name != "reconstruction_psnr"})
    with pytest.raises(UserError, match="has other arrays than that of the first seed"):
        Evidence(Results(params, "demo", tmp_path)).measure("reconstruction_psnr", cells)


def test_a_measure_that_a_cell_lacks_is_named(results):
    params, folder = results
    with pytest.raises(UserError, match=r"sample/vae/seed~0/measures.npz: lacks coarse_prior_sample, which the claims need; make it with"):
        Evidence(Results(params, "demo", folder)).measure("sample_energy", grid.baselines(params)[:1])


def test_the_power_of_the_energy_coefficient_is_written(results):
    params, folder = results
    write_claims(params, "demo", folder, ROOT / "claims.yaml")
    rows = read_table(folder / POWER, POWER_SCHEMA).set_index("sample")
    assert [*rows.index[:3]] == [SAME, SHUFFLED, "samples of pixCNN++"]
    assert (rows["low"] <= rows["energy"]).all() and (rows["energy"] <= rows["high"]).all() and (rows["energy"] < 1).all()
    assert len(rows) == 3 + len(grid.kl_weight_cells(params)) + len(grid.further_cells(params))
    page = (folder / "claims/claims.md").read_text()
    assert all(f"| {name} " in page for name in rows.index)


def test_a_missing_result_is_named(results):
    params, folder = results
    (folder / "evaluate/vae/seed~0/iwae.npz").unlink()
    with pytest.raises(UserError, match=r"evaluate/vae/seed~0/iwae.npz: missing; make it with: snakemake"):
        write_claims(params, "demo", folder, ROOT / "claims.yaml")


def test_a_model_that_the_grid_lacks_is_not_testable(results):
    params, folder = results
    grid = params.grid.model_copy(update={"without_auxiliary_kl_weight": None})
    evidence = Evidence(Results(params.model_copy(update={"grid": grid}), "demo", folder))
    (claim,) = (claim for claim in load(ROOT / "claims.yaml") if claim.id == "C25")
    decision = decide(claim, evidence)
    assert decision.verdict == "not testable at this scale" and "no model with λ = 1, no auxiliary loss" in decision.basis


@pytest.mark.parametrize("preset", ["tiny", pytest.param("study", marks=pytest.mark.integration)])
def test_every_preset_gets_a_verdict_on_every_claim(preset, tmp_path):
    params = config.load(ROOT / "params.yaml", preset)
    write_results(params, tmp_path / preset)
    tables.write_tables(params, preset, tmp_path / preset)
    found = {one.claim.id: one for one in write_claims(params, preset, tmp_path / preset, ROOT / "claims.yaml")}
    assert len(found) == 32
    if preset == "tiny":  # KL weights 2 and 8, 256 and 32 levels
        for name in ("C2", "C3", "C4", "C5", "C6", "C18", "C19", "C22", "C23", "C24", "C27"):
            assert found[name].verdict == "not testable at this scale", name
        assert found["C5"].basis == "the grid of this preset has no model with λ = 1"
        assert found["C18"].basis == "the grid of this preset has no model with λ = 8, 2 levels"
        assert found["C7"].verdict == found["C9"].verdict == "holds"


def with_grid(params, **changes):
    return params.model_copy(update={"grid": params.grid.model_copy(update=changes)})


def decided(params, folder, *names):
    evidence = Evidence(Results(params, "demo", folder))
    return {claim.id: decide(claim, evidence) for claim in load(ROOT / "claims.yaml") if claim.id in names}


def test_a_claim_about_values_is_not_testable_where_the_grid_lacks_them(results):
    params, folder = results
    found = decided(with_grid(params, kl_weights=[4.0, 8.0, 12.0]), folder, "C5", "C6", "C7", "C9", "C16", "C17", "C2")
    assert {name for name, one in found.items() if one.verdict == "not testable at this scale"} == {"C5", "C6", "C9", "C16", "C17"}
    assert [one.label for one in found["C7"].comparisons] == ["λ 4 → λ 8", "λ 8 → λ 12"]
    found = decided(with_grid(params, kl_weights=[1.0, 1.5, 2.0, 4.0]), folder, "C2")
    assert found["C2"].basis == "the grid of this preset has no model with λ = 12"
    found = decided(with_grid(params, kl_weights=[1.0, 2.0, 12.0], table_kl_weight=2.0), folder, "C2", "C3", "C4", "C22")
    assert all("not in Table 1 of this preset, is not computed" in one.basis for one in found.values())
    found = decided(with_grid(params, levels_kl_weight=4.0, levels=[256, 2]), folder, "C18", "C19", "C24")
    assert {one.verdict for one in found.values()} == {"not testable at this scale"}
    found = decided(params.model_copy(update={"pretrain": params.pretrain.model_copy(update={"vae_kl_weight": 4.0})}), folder, "C3", "C29")
    assert {one.basis for one in found.values()} == {"the grid of this preset has no VAE with λ = 1"}


def test_the_first_step_is_the_one_that_the_paper_names(results):
    """With λ = 1.5 between, and models of two more λ of low resolution."""
    params, _ = results
    params = with_grid(params, kl_weights=[12.0, 1.5, 1.0, 4.0, 2.0])
    (claim,) = (claim for claim in load(ROOT / "claims.yaml") if claim.id == "C6")
    assert [cell.kl_weight for cell in claim.tests[0].cells(params)] == [2, 4, 8, 12]  # 8: that of the colour levels
    assert [cell.kl_weight for cell in claim.tests[1].cells(params)] == [1, 2, 4, 8, 12]


def test_no_verdict_depends_on_the_order_of_a_list_of_the_grid(tmp_path):
    document = config.read(ROOT / "params.yaml")
    small = {"prepare": {"photos": {"test_crops": 60}}, "sample": {"images": 4}, "evaluate": {"iwae_images": 50}}
    pages = []
    for turn in (1, -1):
        grid_of = {
            "kl_weights": [1, 2, 4, 12][::turn],
            "levels": [256, 32, 2][::turn],
            "resolutions": [{"resolution": r, "kl_weight": w} for r in (16, 8) for w in (2, 8)][::turn],
            "seeds": [0, 1][::turn],
        }
        params = config.resolve(document | {"turned": presets.merge(document["demo"], small | {"grid": grid_of})}, "turned")
        write_results(params, tmp_path / "demo")
        tables.write_tables(params, "demo", tmp_path / "demo")
        write_claims(params, "demo", tmp_path / "demo", ROOT / "claims.yaml")
        pages.append([(tmp_path / "demo/claims" / name).read_bytes() for name in ("claims.csv", "claims.md")])
    assert pages[0] == pages[1]
    rows = read_table(tmp_path / "demo" / CLAIMS, CLAIMS_SCHEMA).set_index("id")
    assert rows.loc["C22", "comparison"].to_list() == [f"λ 12 → λ {w}, {r}×{r}" for r in (16, 8) for w in (2, 8)]


@pytest.mark.parametrize(
    ("block", "change"),
    [
        ("grid", {"table_kl_weight": 8}),
        ("evaluate", {"iwae_samples": 50}),
        ("evaluate", {"iwae_images": 500}),
        ("prepare", {"train_images": 2500}),
        ("model", {"vae": {"latent": 8}}),
        ("model", {"vae": {"depth": 2, "blocks": 10}}),
        ("model", {"pixelcnn_pp": {"mixtures": 5}}),
        ("model", {"pixelcnn_pp": {"resolutions": 2}}),
        ("model", {"detach_features": True}),
    ],
)
def test_the_published_size_is_every_size_that_is_published(block, change):
    document = config.read(ROOT / "params.yaml")
    assert published.not_as_published(config.resolve(document, "paper")) == []
    assert published.not_as_published(config.resolve(document | {"other": {block: change}}, "other"))


def test_one_image_of_one_seed_decides_nothing(results):
    params, folder = results
    evidence = Evidence(Results(params, "demo", folder))
    with pytest.raises(NotTestableError, match="one image and one seed"):
        evidence.together([np.zeros((1, 1))])


def test_a_measure_of_a_network_that_a_model_lacks_is_named(results):
    params, folder = results
    evidence = Evidence(Results(params, "demo", folder))
    with pytest.raises(UserError, match=r"measure vae_bits_per_dim of the model pixelcnn_pp, which has no such network; accepted: another"):
        evidence.measure("vae_bits_per_dim", [grid.baselines(params)[1]])


def test_models_are_named_by_their_values():
    params = with_grid(config.load(ROOT / "params.yaml", "demo"), levels=[2, 256, 8])
    names = [cell.name for cell in Models(kl_weight=8, levels="any").cells(params)]
    assert names == [f"kl_weight~8-levels~{levels}-resolution~32" for levels in (256, 8, 2)]
    assert [cell.name for cell in Models(kind="vae", kl_weight=1).cells(params)] == ["vae"]
    for models, missing in (
        (Models(kl_weight=[12, "larger"]), "model with λ above 12"),
        (Models(kl_weight="any", resolution=4), "model with resolution 4"),
        (Models(kl_weight=3, levels=[256]), "model with λ = 3"),
    ):
        with pytest.raises(NotTestableError, match=f"^the grid of this preset has no {missing}$"):
            models.cells(params)


def test_what_the_step_reads_stands_among_its_parameters():
    params = config.load(ROOT / "params.yaml", "demo")
    found = dict(presets.flatten(step.options(params)))
    assert set(published.SIZES) <= set(found)
    assert {"grid.seeds", "pretrain.vae_kl_weight", "model.vae.latent"} <= {key.split("[")[0] for key in found}


def test_claims_import_neither_tables_nor_torch():
    code = (
        "import sys, agave.claims; print([name for name in ('torch', 'pandas', 'skimage', 'scipy', 'agave.tables') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert set(PROPERTIES) == set(network_properties.CHECKS)


def pictures(count=5, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def test_shape_and_detail_make_up_an_image():
    images = pictures()
    shape = measures.low_passed(images).repeat(4, axis=1).repeat(4, axis=2)
    assert np.allclose(shape + measures.detail(images), images)
    assert measures.detail_power(np.full_like(images, 7)) == pytest.approx(np.zeros(5))
    odd = pictures(size=10)  # 4 does not divide it: a border is left out
    assert np.array_equal(measures.low_passed(odd), measures.low_passed(odd[:, :8, :8])) and measures.detail(odd).shape == (5, 8, 8, 3)


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
