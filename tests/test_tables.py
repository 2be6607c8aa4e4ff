"""Tables from a results tree made up by fake_results."""

import csv
import json
import math
from pathlib import Path

import pytest
from fake_results import bound, write_results, write_row

from agave import grid, tables
from agave.config import Params, load
from agave.errors import UserError
from agave.grid import Cell
from agave.results import BOUND_QUANTITIES, bound_path, iwae_path

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
    assert [row["cell"] for row in read(tmp_path / "tables/iwae.csv")] == [cell.name for cell in grid.table_cells(params)]


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
    assert [row["our_model"] for row in rows] == [""] * 5 + ["VAE-IAF"] + [""] * 4 + ["AGAVE, λ = 8", "PixelCNN++", "AGAVE, λ = 2, 8×8"]
    assert rows[12]["published_bits_per_dim"] == ""  # 8x8 of 16x16 images is not the paper's model
    iwae = {row["cell"]: row for row in read(tmp_path / "tables/iwae.csv")}
    assert float(rows[10]["our_bits_per_dim"]) == pytest.approx(
        float(iwae[grid.table_cells(params)[1].name]["iwae_bits_per_dim"]), abs=1e-6
    )
    assert (rows[10]["our_samples"], rows[10]["our_images"], rows[10]["our_seeds"]) == ("2", "50", "1")
    assert (rows[11]["our_bound"], rows[11]["our_samples"], rows[11]["our_images"]) == ("", "", "500")


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
    ("data_set", "images", "marked"), [("photos test", 10_000, 4), ("CIFAR-10 test", 50, 4), ("CIFAR-10 test", 10_000, 0)]
)
def test_numbers_that_cannot_be_compared_are_marked(params: Params, tmp_path: Path, data_set: str, images: int, marked: int) -> None:
    write_results(params, tmp_path, data_set)
    for paths, of in ((bound_path, grid.all_cells(params)), (iwae_path, grid.table_cells(params))):
        for cell in of:
            path = tmp_path / paths(cell, 0)
            write_row(path, read(path)[0] | {"images": str(images)})  # type: ignore[arg-type]
    tables.write_tables(params, "tiny", tmp_path)
    rows = read(tmp_path / "tables/table1.csv")
    assert sum(row["our_comparable"] == "no" for row in rows) == marked
    assert {row["our_measured_on"] for row in rows if row["our_model"]} == {data_set}
    markdown, latex = (tmp_path / "tables/table1.md").read_text(), (tmp_path / "tables/table1.tex").read_text()
    table = markdown.split("\n\n")[0]
    assert table.count("‡") == marked and ("‡ not measured on" in markdown) == (marked > 0)
    assert latex.split("\\bottomrule")[0].count("\\ddagger") == marked
    assert table.count("†") == latex.split("\\bottomrule")[0].count("^\\dagger") == 12
    assert table.count(data_set) == 4


def test_latex_rows_have_ten_columns_and_no_raw_specials(params: Params, tmp_path: Path) -> None:
    write_results(params, tmp_path, "100% of_photos & more")
    tables.write_tables(params, "tiny", tmp_path)
    latex = (tmp_path / "tables/table1.tex").read_text()
    body = latex.split("\\midrule")[1:]
    lines = [line for part in body for line in part.split("\\bottomrule")[0].splitlines() if line]
    assert len(lines) == 13
    for line in lines:
        assert line.replace("\\&", "").count("&") == 9
        assert line.isascii()
    assert "100\\% of\\_photos \\& more" in latex


def test_seeds_are_averaged_and_errors_combined(params: Params, tmp_path: Path) -> None:
    three = with_grid(params, seeds=[0, 1, 2])
    write_results(three, tmp_path)
    tables.write_tables(three, "tiny", tmp_path)
    row = read(tmp_path / "tables/table1.csv")[10]
    cell = grid.table_cells(three)[1].name
    values = [float(one["iwae_bits_per_dim"]) for one in read(tmp_path / "tables/iwae.csv") if one["cell"] == cell]
    assert len(values) == 3 and row["our_seeds"] == "3"
    assert float(row["our_bits_per_dim"]) == pytest.approx(sum(values) / 3, abs=1e-6)
    # seeds 0.006 apart (KL once, shift in the reconstruction): variance 9e-6; image error 0.12 in every seed
    assert float(row["our_standard_error"]) == pytest.approx(math.sqrt(0.12**2 + 9e-6 / 3), abs=1e-6)


def test_combine_keeps_one_seed_as_it_is_and_does_not_shrink_the_image_error() -> None:
    assert tables.combine([3.0], [0.1]) == pytest.approx((3.0, 0.1))
    assert tables.combine([3.0] * 4, [0.1] * 4) == pytest.approx((3.0, 0.1))
    assert tables.combine([1.0, 3.0], [0.0, 0.0]) == pytest.approx((2.0, 1.0))


def test_same_inputs_give_the_same_bytes(params: Params, tmp_path: Path) -> None:
    names = ("bounds.csv", "iwae.csv", "table1.csv", "table1.md", "table1.tex", "metrics.json")
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
        ({"pixelcnn_bits_per_dim": "nan"}, "no finite number"),
        ({"pixelcnn_bits_per_dim": ""}, "no finite number"),
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
