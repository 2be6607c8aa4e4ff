"""Tables from a results tree made up by fake_results."""

import csv
import json
from pathlib import Path

import fake_results
import numpy as np
import pytest
from fake_results import bound, write_results, write_row

from agave import grid, tables
from agave.claims import decide
from agave.claims import load as load_claims
from agave.claims.evidence import Evidence
from agave.config import Params, load
from agave.csv_tables import read_table
from agave.errors import UserError
from agave.grid import Cell
from agave.results import BOUNDS, IWAE, ORDER, TABLE_1, Results, bound_path, growth_path, iwae_arrays_path, iwae_path, per_image_path
from agave.schemas import BOUND_QUANTITIES, BOUND_SCHEMA, IWAE_SCHEMA, ORDER_SCHEMA, TABLE_1_SCHEMA
from agave.statistics import over_seeds, standard_error, standard_error_of_images

PARAMS_FILE = Path(__file__).parent.parent / "params.yaml"


def with_grid(params: Params, **grid: object) -> Params:
    return params.model_copy(update={"grid": params.grid.model_copy(update=grid)})


@pytest.fixture
def params() -> Params:
    return load(PARAMS_FILE, "tiny")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_bounds_hold_the_grid_and_nothing_else(params: Params, tmp_path: Path) -> None:
    write_results(params, tmp_path)
    stale = Cell(kl_weight=99.0, resolution=16)
    write_row(tmp_path / bound_path(stale, 0), bound(stale, 0, params, "photos test (16 crops)"))
    write_row(tmp_path / bound_path(grid.all_cells(params)[0], 7), bound(grid.all_cells(params)[0], 7, params, "other"))
    tables.write_tables(params, "tiny", tmp_path)
    rows = read(tmp_path / "tables/bounds.csv")
    assert [(row["cell"], row["seed"]) for row in rows] == [(cell.name, "0") for cell in grid.all_cells(params)]
    for row in rows:
        assert row == read(tmp_path / f"evaluate/{row['cell']}/seed~0/bound.csv")[0]
    assert [row["cell"] for row in read(tmp_path / "tables/iwae.csv")] == [cell.name for cell in grid.sampled_cells(params)]


def test_metrics_are_the_means_that_the_tables_show(params: Params, tmp_path: Path) -> None:
    params = with_grid(params, seeds=[0, 1])
    write_results(params, tmp_path)
    tables.write_tables(params, "tiny", tmp_path)
    metrics = json.loads((tmp_path / "tables/metrics.json").read_text(encoding="utf-8"))
    rows = read(tmp_path / "tables/bounds.csv")
    assert list(metrics["cells"]) == [cell.name for cell in grid.all_cells(params)]
    for name, terms in metrics["cells"].items():
        own = [row for row in rows if row["cell"] == name]
        assert len(own) == 2
        for quantity in BOUND_QUANTITIES:
            if own[0][quantity] == "":
                assert quantity not in terms
            else:
                assert terms[quantity] == pytest.approx(sum(float(row[quantity]) for row in own) / 2, abs=1e-6)
    table1 = {row["our_model"]: float(row["our_bits_per_dim"]) for row in read(tmp_path / "tables/table1.csv") if row["our_model"]}
    assert metrics["table1"] == table1


def test_table_1_has_the_twelve_rows_of_the_paper_in_order(params: Params, tmp_path: Path) -> None:
    write_results(params, tmp_path)
    tables.write_tables(params, "tiny", tmp_path)
    rows = read(tmp_path / "tables/table1.csv")
    published = [row["published_bound"] + row["published_bits_per_dim"] for row in rows[:12]]
    assert published == ["4.48", "<=3.58", "3.49", "<=3.24", "3.14", "<=3.11", "3.03", "3.00", "2.98", "<=2.95", "<=2.92", "2.92"]
    assert {row["published_mark"] for row in rows[:12]} == {"cited"}
    names = [row["model"] for row in rows[:10]]  # λ = 8 is no number of the row AGAVE, λ = 12
    assert [row["our_model"] for row in rows] == [*names, "", "PixelCNN++", "AGAVE, λ = 8", "AGAVE, λ = 2, 8×8"]
    numbers = {row["our_model"]: (row["our_number"], row["our_bound"], row["our_architecture"]) for row in rows}
    assert numbers["PixelCNN"] == ("exact", "", "as published, other sizes")
    assert numbers["NICE"] == ("bound, importance-sampled over the dequantisation noise", "<=", "as published, other sizes")
    assert numbers["Aux. pixelCNN"] == ("bound without noise", "<=", "sizes ours, other sizes")
    assert numbers["MatNet"] == ("bound, importance-sampled", "<=", "our reading, other sizes")
    assert [row["published_bits_per_dim"] for row in rows[12:]] == ["", ""]  # nor is 8x8 of 16x16 images the paper's model
    iwae = {row["cell"]: row for row in read(tmp_path / "tables/iwae.csv")}
    best = iwae[grid.table_cells(params)[1].name]
    assert float(rows[12]["our_bits_per_dim"]) == pytest.approx(float(best["iwae_bits_per_dim"]), abs=1e-6)
    assert float(rows[12]["our_standard_error"]) == pytest.approx(float(best["iwae_bits_per_dim_standard_error"]), abs=1e-6)
    assert (rows[12]["our_bound"], rows[12]["our_samples"], rows[12]["our_images"], rows[12]["our_seeds"]) == ("<=", "2", "50", "1")
    assert (rows[11]["our_bound"], rows[11]["our_samples"], rows[11]["our_images"]) == ("", "", "50")


def test_values_beside_each_other_are_of_the_same_images(params: Params, tmp_path: Path) -> None:
    params = with_grid(params, seeds=[0, 1])
    write_results(params, tmp_path)
    tables.write_tables(params, "tiny", tmp_path)
    rows = {row["our_model"]: row for row in read(tmp_path / TABLE_1)}
    assert {row["our_images"] for name, row in rows.items() if name} == {"50"}
    pixelcnn_pp, best = grid.baselines(params)[1], grid.table_cells(params)[1]
    size = 3 * params.prepare.image_size**2 * np.log(2)

    def bits(path_of: object, cell: Cell, name: str) -> np.ndarray:
        return np.stack([-np.load(tmp_path / path_of(cell, seed))[name] for seed in (0, 1)]) / size  # type: ignore[operator]

    exact, bound_of_best = bits(per_image_path, pixelcnn_pp, "log_prob_x"), bits(iwae_arrays_path, best, "iwae")
    row = rows["PixelCNN++"]
    assert float(row["our_bits_per_dim"]) == pytest.approx(exact[:, :50].mean(), abs=1e-6)
    assert float(row["our_bits_per_dim_on_all_images"]) == pytest.approx(exact.mean(), abs=1e-6)
    errors = [standard_error_of_images(one.tolist()) for one in exact]
    assert float(row["our_standard_error_on_all_images"]) == pytest.approx(standard_error(exact.mean(1).tolist(), errors), abs=1e-6)  # type: ignore[arg-type]
    assert row["our_all_images"] == "500" and not row["our_difference_to_pixelcnn_pp"]
    difference = float(rows["AGAVE, λ = 8"]["our_difference_to_pixelcnn_pp"])
    assert difference == pytest.approx((bound_of_best - exact[:, :50]).mean(), abs=1e-6)
    low, high = (float(rows["AGAVE, λ = 8"][f"our_difference_to_pixelcnn_pp_{end}"]) for end in ("low", "high"))
    assert low < difference < high and high - low < 0.1 * float(row["our_standard_error"])  # what the images have in common cancels
    markdown = (tmp_path / "tables/table1.md").read_text()
    assert "On all test images (number)" in markdown and f"{exact.mean():.3f} ± " in markdown and "(500) |" in markdown


def test_the_interval_is_the_one_that_the_claims_use(tmp_path: Path) -> None:
    demo = load(PARAMS_FILE, "demo")
    write_results(demo, tmp_path)
    tables.write_tables(demo, "demo", tmp_path)
    (row,) = (row for row in read(tmp_path / TABLE_1) if row["our_model"] == "AGAVE, λ = 12")
    (claim,) = (claim for claim in load_claims(PARAMS_FILE.with_name("claims.yaml")) if claim.id == "C2")
    (comparison,) = decide(claim, Evidence(Results(demo, "demo", tmp_path))).comparisons
    ends = [float(row[f"our_difference_to_pixelcnn_pp{end}"]) for end in ("", "_low", "_high")]
    assert [comparison.value, comparison.low, comparison.high] == pytest.approx(ends, abs=1e-6)


def test_every_table_has_a_schema_and_is_read_as_it_was_written(params: Params, tmp_path: Path) -> None:
    write_results(params, tmp_path)
    tables.write_tables(params, "tiny", tmp_path)
    for path, schema in ((BOUNDS, BOUND_SCHEMA), (IWAE, IWAE_SCHEMA), (TABLE_1, TABLE_1_SCHEMA), (ORDER, ORDER_SCHEMA)):
        assert set(read_table(tmp_path / path, schema).columns) == set(schema)
    source = Results(params, "tiny", tmp_path)
    cells = grid.all_cells(params)[::-1]
    assert source.bounds_of(cells)["cell"].to_list() == [cell.name for cell in cells]


def test_low_resolution_values_stand_beside_models_of_32x32_images(tmp_path: Path) -> None:
    demo = load(PARAMS_FILE, "demo")
    write_results(demo.model_copy(update={"sample": demo.sample.model_copy(update={"images": 1})}), tmp_path)
    tables.write_tables(demo, "demo", tmp_path)
    rows = read(tmp_path / "tables/table1.csv")
    assert [(row["model"], row["published_bits_per_dim"]) for row in rows[12:]] == [
        ("AGAVE, 16×16 auxiliary image", "2.94"),
        ("AGAVE, 8×8 auxiliary image", "2.93"),
    ]


@pytest.mark.parametrize(
    ("data_set", "images", "marked"), [("photos test", 10_000, 13), ("CIFAR-10 test", 50, 13), ("CIFAR-10 test", 10_000, 0)]
)
def test_numbers_that_cannot_be_compared_are_marked(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_set: str, images: int, marked: int
) -> None:
    monkeypatch.setattr(fake_results, "IMAGES", images)
    monkeypatch.setattr(fake_results, "IWAE_IMAGES", images)
    write_results(params, tmp_path, data_set)
    tables.write_tables(params, "tiny", tmp_path)
    rows = read(tmp_path / "tables/table1.csv")
    assert sum(row["our_comparable"] == "no" for row in rows) == marked
    assert {row["our_measured_on"] for row in rows if row["our_model"]} == {data_set}
    markdown, latex = (tmp_path / "tables/table1.md").read_text(), (tmp_path / "tables/table1.tex").read_text()
    table = markdown.split("\n\n")[0]
    assert table.count("‡") == marked and ("‡ not measured on" in markdown) == (marked > 0)
    assert latex.split("\\bottomrule")[0].count("\\ddagger") == marked
    assert table.count("†") == latex.split("\\bottomrule")[0].count("^\\dagger") == 12
    assert markdown.split("\n\n")[1].count(data_set) == 13


def test_latex_rows_have_all_columns_and_no_raw_specials(params: Params, tmp_path: Path) -> None:
    write_results(params, tmp_path, "100% of_photos & more")
    tables.write_tables(params, "a_b", tmp_path)
    latex = (tmp_path / "tables/table1.tex").read_text()
    for part, rows, columns in zip(latex.split("\\toprule")[1:], (14, 13), (9, 9), strict=True):
        head, body = part.split("\\bottomrule")[0].split("\\midrule")
        lines = [line for line in (head + body).splitlines() if line]
        assert len(lines) == 1 + rows
        for line in lines:
            assert line.replace("\\&", "").count("&") == columns - 1
            assert line.isascii()
    assert "Preset a\\_b." in latex
    assert "100\\% of\\_photos \\& more" in latex


def test_seeds_are_averaged_and_errors_combined(params: Params, tmp_path: Path) -> None:
    three = with_grid(params, seeds=[0, 1, 2])
    write_results(three, tmp_path)
    tables.write_tables(three, "tiny", tmp_path)
    row = read(tmp_path / "tables/table1.csv")[12]
    rows = [one for one in read(tmp_path / "tables/iwae.csv") if one["cell"] == grid.table_cells(three)[1].name]
    values, errors = ([float(one[f"iwae_bits_per_dim{end}"]) for one in rows] for end in ("", "_standard_error"))
    assert len(values) == 3 and row["our_seeds"] == "3"
    assert float(row["our_bits_per_dim"]) == pytest.approx(sum(values) / 3, abs=1e-6)
    assert float(row["our_standard_error"]) == pytest.approx(standard_error(values, errors), abs=1e-6)
    means = over_seeds(Results(three, "tiny", tmp_path).table(IWAE, IWAE_SCHEMA), "iwae_bits_per_dim").loc[rows[0]["cell"]]
    assert [means["value"], means["standard_error"]] == pytest.approx([sum(values) / 3, standard_error(values, errors)])


def test_a_standard_error_of_one_seed_is_that_of_its_images_which_more_seeds_do_not_shrink() -> None:
    assert standard_error([3.0], [0.1]) == pytest.approx(0.1)
    assert standard_error([3.0] * 4, [0.1] * 4) == pytest.approx(0.1)
    assert standard_error([1.0, 3.0], [0.0, 0.0]) == pytest.approx(1.0)
    assert standard_error_of_images([1.0, 3.0]) == pytest.approx(1.0) and standard_error_of_images([1.0]) is None
    with pytest.raises(ValueError, match="0 means and 0 standard errors"):
        standard_error([], [])


def test_one_test_image_gives_tables_without_a_standard_error(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_results, "IMAGES", 1)
    monkeypatch.setattr(fake_results, "IWAE_IMAGES", 1)
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning):
        write_results(params, tmp_path)
    tables.write_tables(params, "tiny", tmp_path)
    rows = [row for row in read(tmp_path / TABLE_1) if row["our_model"]]
    assert all(row["our_bits_per_dim"] and not row["our_standard_error"] for row in rows)


def test_same_inputs_give_the_same_bytes(params: Params, tmp_path: Path) -> None:
    names = ("bounds.csv", "iwae.csv", "table1.csv", "table1.md", "table1.tex", "order.csv", "metrics.json")
    for folder in ("one", "two"):
        write_results(params, tmp_path / folder)
        tables.write_tables(params, "tiny", tmp_path / folder)
    for name in names:
        assert (tmp_path / "one/tables" / name).read_bytes() == (tmp_path / "two/tables" / name).read_bytes()


def test_each_input_is_needed_and_named_when_missing(params: Params, tmp_path: Path) -> None:
    write_results(params, tmp_path)
    for path in tables.inputs(params):
        away = (tmp_path / path).rename(tmp_path / "away")
        with pytest.raises(UserError) as error:
            tables.write_tables(params, "tiny", tmp_path)
        assert str(tmp_path / path) in str(error.value)
        assert f"snakemake --cores all results/tiny/{path} --config preset=tiny" in str(error.value)
        assert not (tmp_path / "tables").exists()
        away.rename(tmp_path / path)
    tables.write_tables(params, "tiny", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "vae"}, "exactly one row"),
        ({"seed": "3"}, "exactly one row"),
        ({"data_set": "something else"}, "was measured on 'something else'"),
        ({"pixelcnn_bits_per_dim": "nan"}, "pixelcnn_bits_per_dim in line 2 is 'nan'; accepted: a finite number; make it with: snakemake"),
        ({"pixelcnn_bits_per_dim": ""}, "pixelcnn_bits_per_dim of pixelcnn_pp is missing; accepted: a finite number"),
        ({"images": "many"}, "images in line 2 is 'many'; accepted: an integer"),
        ({"added": "1"}, "other columns"),
    ],
)
def test_a_wrong_result_is_named(params: Params, tmp_path: Path, change: dict[str, str], message: str) -> None:
    write_results(params, tmp_path)
    path = tmp_path / bound_path(grid.baselines(params)[1], 0)
    write_row(path, read(path)[0] | change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message) as error:
        tables.write_tables(params, "tiny", tmp_path)
    assert str(path) in str(error.value)


def test_a_lost_column_is_named(params: Params, tmp_path: Path) -> None:
    write_results(params, tmp_path)
    path = tmp_path / bound_path(grid.baselines(params)[1], 0)
    write_row(path, {key: value for key, value in read(path)[0].items() if key != "kl"})
    with pytest.raises(UserError, match="lacks the column kl"):
        tables.write_tables(params, "tiny", tmp_path)


def test_other_images_than_those_of_the_csv_file_are_named(params: Params, tmp_path: Path) -> None:
    write_results(params, tmp_path)
    arrays = tmp_path / iwae_arrays_path(grid.table_cells(params)[0], 0)
    with np.load(arrays) as file:
        np.savez(arrays, **{name: array[:40] if name != "samples" else array for name, array in dict(file).items()})
    with pytest.raises(UserError, match=r"iwae.npz: holds 50 images, another model 40; accepted: the same number for all"):
        tables.write_tables(params, "tiny", tmp_path)
    write_results(params, tmp_path)
    path = tmp_path / iwae_path(grid.table_cells(params)[1], 0)
    write_row(path, read(path)[0] | {"images": "49"})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"iwae.csv: is of 49 images, iwae.npz of 50; accepted: the same images"):
        tables.write_tables(params, "tiny", tmp_path)


def test_growth_is_gathered_with_all_its_rows(params: Params, tmp_path: Path) -> None:
    from agave.schemas import GROWTH_SCHEMA

    write_results(params, tmp_path)
    source = Results(params, "tiny", tmp_path)
    growth = source.gather(grid.table_cells(params), growth_path, GROWTH_SCHEMA, single=False)
    assert growth.groupby("cell", sort=False).size().to_dict() == {cell.name: 2 for cell in grid.table_cells(params)}
    with pytest.raises(UserError, match="does not hold exactly one row, for the cell vae and seed 0"):
        source.gather(grid.table_cells(params), growth_path, GROWTH_SCHEMA)
