"""Figures from a results tree made up by fake_results: what the data files hold, what is refused, that bytes repeat."""

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_results import write_results
from jinja2 import Environment, StrictUndefined

from agave import figures, grid, tables
from agave.config import Params, load
from agave.errors import UserError
from agave.figures import curves, images, mosaic, schematic
from agave.figures.style import text_width, wrap
from agave.results import BOUNDS, HISTORIES, Results, growth_path, history_paths, per_image_path, shown_path
from agave.statistics import FORMULA
from agave.steps import figures as step

ROOT = Path(__file__).parent.parent
SHAPED = {"1a": ["prior"], "1b": ["prior_sample"], "1c": ["prior", "prior_sample"]}


@pytest.fixture(scope="module")
def params() -> Params:
    tiny = load(ROOT / "params.yaml", "tiny")
    return tiny.model_copy(update={"figures": tiny.figures.model_copy(update={"dpi": 100})})


@pytest.fixture(scope="module")
def results(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_results(params, folder)
    tables.write_tables(params, "tiny", folder)
    for name in figures.NAMES:
        figures.draw(name, params, "tiny", folder)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def copy_inputs(name: str, params: Params, source: Path, target: Path) -> None:
    for path in figures.inputs(name, params):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, target / path)


@pytest.mark.parametrize("name", figures.NAMES)
def test_a_figure_needs_its_inputs_and_nothing_else(name: str, params: Params, results: Path, tmp_path: Path) -> None:
    """Drawn from its declared inputs alone it has the same bytes, and each missing input is named."""
    copy_inputs(name, params, results, tmp_path)
    paths = figures.inputs(name, params)
    for path in {paths[0], paths[-1]} if paths else ():
        away = (tmp_path / path).rename(tmp_path / "away")
        with pytest.raises(UserError) as error:
            figures.draw(name, params, "tiny", tmp_path)
        assert str(tmp_path / path) in str(error.value)
        assert f"snakemake --cores all results/tiny/{path} --config preset=tiny" in str(error.value)
        assert not (tmp_path / "figures").exists()
        away.rename(tmp_path / path)
    figures.draw(name, params, "tiny", tmp_path)
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == sorted(f"figure{name}.{end}" for end in ("pdf", "png", "npz" if name in figures.IMAGE_FIGURES else "csv"))
    for file in written:
        assert (tmp_path / "figures" / file).read_bytes() == (results / "figures" / file).read_bytes(), file


def test_bytes_do_not_depend_on_the_process(params: Params, results: Path, tmp_path: Path) -> None:
    for name in ("3a", "4"):
        copy_inputs(name, params, results, tmp_path)
    code = "import sys; from pathlib import Path; from agave import figures; from agave.config import Params\n"
    code += "params = Params.model_validate_json(sys.argv[2])\n"
    code += "[figures.draw(n, params, 'tiny', Path(sys.argv[1])) for n in ('2', '3a', '4')]\n"
    code += "assert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), params.model_dump_json()], check=True, env=environment)
    for file in (tmp_path / "figures").iterdir():
        assert file.read_bytes() == (results / "figures" / file.name).read_bytes(), file.name


def test_planning_loads_no_plotting_library() -> None:
    code = f"import sys; from agave import figures; from agave.config import load; p = load({str(ROOT / 'params.yaml')!r}, 'paper')\n"
    code += "[figures.inputs(n, p) for n in figures.NAMES]; assert not {'matplotlib', 'seaborn', 'pandas', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_such_figure(params: Params, tmp_path: Path) -> None:
    for call in (lambda: figures.inputs("7", params), lambda: figures.draw("7", params, "tiny", tmp_path)):
        with pytest.raises(UserError, match="no figure '7'; accepted: 1a, 1b"):
            call()


def test_figure_4_is_what_the_bounds_say(params: Params, results: Path) -> None:
    bounds = {row["cell"]: row for row in rows_of(results / BOUNDS)}
    rows = rows_of(results / "figures/figure4.csv")
    assert {row["cell"] for row in rows} == {cell.name for cell in (*grid.kl_weight_cells(params), grid.baselines(params)[1])}
    for row in rows:
        assert float(row["bits_per_dim"]) == pytest.approx(float(bounds[row["cell"]][row["quantity"]]), abs=1e-6)
        assert float(row["standard_error"]) == pytest.approx(float(bounds[row["cell"]][f"{row['quantity']}_standard_error"]), abs=1e-6)
        assert (row["seeds"], row["data_set"]) == ("1", "photos test (500 crops)")
    for cell in grid.kl_weight_cells(params):
        value = {row["quantity"]: float(row["bits_per_dim"]) for row in rows if row["cell"] == cell.name}
        assert value["kl"] + value["vae_reconstruction"] == pytest.approx(value["vae_bits_per_dim"], abs=2e-6)
        assert value["kl"] + value["pixelcnn_reconstruction"] == pytest.approx(value["pixelcnn_bits_per_dim"], abs=2e-6)


def test_figure_5b_has_one_row_a_level_finest_first(params: Params, results: Path) -> None:
    rows = rows_of(results / "figures/figure5b.csv")
    assert [(row["levels"], row["quantity"]) for row in rows] == [("256", "pixelcnn_bits_per_dim"), ("32", "pixelcnn_bits_per_dim")]


def test_several_seeds_are_averaged_with_the_error_over_images_and_seeds(params: Params, tmp_path: Path) -> None:
    two = params.model_copy(update={"grid": params.grid.model_copy(update={"seeds": [0, 2]})})
    write_results(two, tmp_path)
    tables.write_tables(two, "tiny", tmp_path)
    for name in ("5b", "training"):
        figures.draw(name, two, "tiny", tmp_path)
    rows = rows_of(tmp_path / "figures/figure5b.csv")
    for row in rows:
        own = [one for one in rows_of(tmp_path / BOUNDS) if one["cell"] == row["cell"]]
        values, of_images = ([float(one[f"pixelcnn_bits_per_dim{end}"]) for one in own] for end in ("", "_standard_error"))
        assert len(values) == 2 and values[1] - values[0] == pytest.approx(0.006)  # fake_results: 0.003 a seed
        assert float(row["bits_per_dim"]) == pytest.approx(sum(values) / 2, abs=1e-6)
        assert float(row["standard_error"]) == pytest.approx(np.sqrt(np.mean(np.square(of_images)) + 0.003**2), abs=1e-6)
        assert row["seeds"] == "2"
    assert {row["seed"] for row in rows_of(tmp_path / "figures/figuretraining.csv")} == {"0", "2"}


def test_training_curves_hold_every_history(params: Params, results: Path) -> None:
    rows = rows_of(results / "figures/figuretraining.csv")
    for (stage, model, seed), path in history_paths(params).items():
        own = [row for row in rows if (row["stage"], row["model"], row["seed"]) == (stage, model, str(seed))]
        source = rows_of(results / path)
        assert [row["step"] for row in own] == [row["step"] for row in source]
        assert [float(row["total"]) for row in own] == pytest.approx([float(row["total"]) for row in source], rel=1e-5)
    assert {row["model"] for row in rows if row["stage"] == "pretrain"} == {"pixelcnn_pp", "vae-resolution~16", "vae-resolution~8"}


@pytest.mark.parametrize("name", SHAPED)
def test_sample_grids_show_the_first_samples_in_order(name: str, params: Params, results: Path) -> None:
    cell = figures.figure_cells(name, params)[0]
    with np.load(results / shown_path(cell, 0)) as samples, np.load(results / f"figures/figure{name}.npz") as drawn:
        assert sorted(drawn.files) == sorted(SHAPED[name])
        for key in drawn.files:
            assert drawn[key].shape == (2, 2, *samples[key].shape[1:])  # 4 images, 2 x 2
            assert np.array_equal(drawn[key].reshape(samples[key].shape), samples[key])


@pytest.mark.parametrize("name", ["3a", "3b", "5a", "6"])
def test_rows_show_the_images_of_their_cell(name: str, params: Params, results: Path) -> None:
    with np.load(results / f"figures/figure{name}.npz") as drawn:
        keys = set(drawn.files) - {"original"}
        assert {key.split("/")[0] for key in keys} == {cell.name for cell in figures.figure_cells(name, params)}
        for key in keys:
            cell, array = key.split("/")
            with np.load(results / f"sample/{cell}/seed~0/shown.npz") as samples:
                assert np.array_equal(drawn[key], samples[array][: params.figures.columns])


def test_the_bits_are_those_of_the_evaluation(params: Params, results: Path, tmp_path: Path) -> None:
    cells = figures.figure_cells("bits", params)
    with np.load(results / "figures/figurebits.npz") as drawn, np.load(results / shown_path(cells[0], 0)) as shown:
        assert np.array_equal(drawn["original"], shown["original"][:4])  # sample.images 4
        for cell, name in zip(cells, ("pixelcnn_pp", "agave"), strict=True):
            with np.load(results / per_image_path(cell, 0)) as terms:
                assert np.array_equal(drawn[name], [*terms["bits_of_pixels"][:4], terms["bits_map"]])
    copy_inputs("bits", params, results, tmp_path)
    with np.load(results / per_image_path(cells[1], 0)) as file:
        np.savez(tmp_path / per_image_path(cells[1], 0), **{name: array for name, array in file.items() if name != "bits_of_pixels"})
    with pytest.raises(UserError, match=r"per_image.npz: lacks the array bits_of_pixels; make it with: snakemake"):
        figures.draw("bits", params, "tiny", tmp_path)


def test_other_test_images_in_one_cell_are_refused(params: Params, results: Path, tmp_path: Path) -> None:
    copy_inputs("3a", params, results, tmp_path)
    path = tmp_path / shown_path(grid.kl_weight_cells(params)[1], 0)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"original": arrays["original"][::-1]})
    with pytest.raises(UserError, match="shows other test images"):
        figures.draw("3a", params, "tiny", tmp_path)
    np.savez(path, **arrays | {"reconstruction": arrays["reconstruction"].astype(np.float32)})
    with pytest.raises(UserError, match="reconstruction is float32"):
        figures.draw("3a", params, "tiny", tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        figures.draw("3a", params, "tiny", tmp_path)


def test_a_table_older_than_the_grid_is_refused(params: Params, results: Path) -> None:
    wider = params.model_copy(update={"grid": params.grid.model_copy(update={"kl_weights": [2.0, 8.0, 5.0]})})
    with pytest.raises(UserError, match=r"no row for the cell kl_weight~5-levels~256-resolution~16, seed 0; make it with: snakemake"):
        figures.draw("4", wider, "tiny", results)


def test_figure_6_takes_the_levels_nearest_to_32(params: Params) -> None:
    paper = load(ROOT / "params.yaml", "paper")
    assert [(cell.levels, cell.resolution, cell.kl_weight) for cell in figures.figure_cells("6", paper)] == [
        (256, 32, 8),
        (32, 32, 8),
        (256, 16, 8),
        (256, 8, 8),
    ]
    without = paper.model_copy(update={"grid": paper.grid.model_copy(update={"levels": [2, 16], "resolutions": []})})
    assert [cell.levels for cell in figures.figure_cells("6", without)] == [256, 16]  # 256 levels from the KL weights
    lone = params.model_copy(update={"grid": params.grid.model_copy(update={"levels": [2], "kl_weights": [1.0], "levels_kl_weight": 3.0})})
    assert [(cell.levels, cell.resolution) for cell in figures.figure_cells("6", lone)] == [(2, 16), (256, 8)]


@pytest.mark.parametrize(
    ("count", "limit", "shape"),
    [(64, 8, (8, 8)), (8, 8, (2, 4)), (16, 8, (4, 4)), (4, 8, (2, 2)), (1, 8, (1, 1)), (7, 8, (1, 7)), (100, 8, (8, 8))],
)
def test_grid_shape(count: int, limit: int, shape: tuple[int, int]) -> None:
    assert images.grid_shape(count, limit) == shape


def test_mosaic_keeps_every_pixel_and_gaps_are_white() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 4, 3), dtype=np.uint8)
    picture = mosaic.mosaic(pictures, gap=2)
    assert picture.shape == (2 * 4 + 2, 3 * 4 + 4, 3)
    for row in range(2):
        for column in range(3):
            assert np.array_equal(picture[row * 6 : row * 6 + 4, column * 6 : column * 6 + 4], pictures[row, column])
    assert (picture[4:6] == 255).all() and (picture[:, 4:6] == 255).all()


def test_image_pixels_are_whole_png_pixels(params: Params, results: Path) -> None:
    """The enlarged images are found in the PNG unchanged, so that nothing interpolates them."""
    from PIL import Image

    png = np.asarray(Image.open(results / "figures/figure1b.png").convert("RGB"))
    with np.load(results / "figures/figure1b.npz") as drawn:
        picture = mosaic.mosaic(drawn["prior_sample"], 1)
    for zoom in range(1, 40):
        large = picture.repeat(zoom, 0).repeat(zoom, 1)
        height, width = large.shape[:2]
        starts = np.argwhere((png[: -height + 1 or None, : -width + 1 or None] == large[0, 0]).all(axis=2)) if height <= len(png) else []
        if any(np.array_equal(png[y : y + height, x : x + width], large) for y, x in starts):
            return
    pytest.fail("the images are not in the PNG")


def test_enlarge_repeats_pixels() -> None:
    small = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    large = images.enlarge(small, 6)
    assert large.shape == (1, 6, 6, 3)
    assert np.array_equal(large[:, ::3, ::3], small) and np.array_equal(large[:, 2::3, 2::3], small)


def test_spread_keeps_order_and_distance() -> None:
    positions = [3.8, 0.05, 3.79, 6.5, 3.81, 6.51]
    moved = curves.spread(positions, 0.5)
    assert sorted(range(6), key=lambda i: moved[i]) == sorted(range(6), key=lambda i: positions[i])
    assert np.diff(sorted(moved)).min() >= 0.5 - 1e-9
    assert moved[1] == 0.05 and moved[0] == pytest.approx(3.8)
    assert curves.spread([1.0, 2.0], 0.5) == [1.0, 2.0]


def test_wrap_fits_and_keeps_every_word() -> None:
    text = "Same test images and noise, seed 0, and a few more words than fit into one line of this width"
    lines = wrap(text, 2.0, 7.0)
    assert " ".join(lines) == text and len(lines) > 1
    assert all(text_width(line, 7.0) <= 2.0 for line in lines)


def test_schematic_boxes_do_not_overlap() -> None:
    for one, other in itertools.combinations(schematic.BOXES.values(), 2):
        (left, bottom, width, height), (other_left, other_bottom, other_width, other_height) = one.place, other.place
        beside = left + width < other_left or other_left + other_width < left
        assert beside or bottom + height < other_bottom or other_bottom + other_height < bottom, (one.title, other.title)


@pytest.mark.parametrize("preset", ["paper", "study", "demo", "tiny"])
def test_schematic_boxes_hold_their_text(preset: str) -> None:
    values = schematic.sizes(load(ROOT / "params.yaml", preset))
    for box in schematic.BOXES.values():
        left, bottom, width, height = box.place
        assert left >= 0 and left + width <= schematic.PAGE[0] and bottom >= 0 and bottom + height <= schematic.PAGE[1]
        assert all(text_width(line, 7.0) <= width for line in box.texts(values)[1:] if "$" not in line), box.title


def test_schematic_arrows_begin_and_end_at_boxes() -> None:
    for arrow in schematic.ARROWS:
        for x, y in (arrow.points[0], arrow.points[-1]):
            touched = [
                box
                for box in schematic.BOXES.values()
                for left, bottom, width, height in [box.place]
                if left - 1e-9 <= x <= left + width + 1e-9 and bottom - 1e-9 <= y <= bottom + height + 1e-9
            ]
            assert len(touched) == 1, (x, y)


def test_schematic_shows_the_sizes_of_the_preset(tmp_path: Path) -> None:
    paper = load(ROOT / "params.yaml", "paper")
    figures.draw("2", paper, "paper", tmp_path)
    lines = {row["text"] for row in rows_of(tmp_path / "figures/figure2.csv")}
    expected = {"32×32×3", "20 layers", "16×16×32", "2 streams of 32 gated blocks", "mixture of 10 logistics", "160 feature maps"}
    assert expected <= lines


def test_data_set_is_read_from_the_bounds(params: Params, results: Path) -> None:
    assert Results(params, "tiny", results).data_set() == "photos test (500 crops)"


@pytest.mark.parametrize("preset", ["paper", "study", "demo", "tiny"])
def test_report_captions_name_the_numbers_they_show(preset: str) -> None:
    params = load(ROOT / "params.yaml", preset)
    rendered = {}
    for path in (ROOT / "workflow/report").glob("*.rst"):
        name = path.stem.removeprefix("figure")
        given = {"shown": figures.caption_values(name, params)} if name in figures.NAMES else {}
        job = {"wildcards": {"preset": preset}, "params": given}
        if name != "workflow":
            rendered[path.stem] = Environment(undefined=StrictUndefined).from_string(path.read_text("utf-8")).render(snakemake=job)
    tables = {"table1", "codec", "claims", "compute", "comparisons", "provenance"}
    assert {f"figure{name}" for name in figures.NAMES} | tables == set(rendered)
    assert all(f"preset {preset}" in text for text in rendered.values())
    assert f"λ = {params.grid.table_kl_weight:g}" in rendered["figure1c"]
    assert f"K = {params.evaluate.iwae_samples}" in rendered["figuregrowth"]
    assert f"λ = {params.grid.levels_kl_weight:g}" in rendered["figure5b"]
    assert ", ".join(f"{weight:g}" for weight in sorted(params.grid.kl_weights)) in rendered["figure4"]
    assert all(FORMULA in rendered[name] for name in ("figure4", "figure5b", "figuregrowth", "table1"))


def test_skipped_steps_and_single_images_leave_figures_that_can_be_drawn(params: Params, results: Path, tmp_path: Path) -> None:
    """A skipped step has no total, and one image has no standard error."""
    for name in ("4", "5b", "growth", "training"):
        copy_inputs(name, params, results, tmp_path)
    histories, bounds = pd.read_csv(tmp_path / HISTORIES), pd.read_csv(tmp_path / BOUNDS)
    histories.loc[histories["step"] < 4, ["kl", "vae_reconstruction", "pixelcnn_reconstruction", "total"]] = np.nan
    bounds[[column for column in bounds if column.endswith("standard_error")]] = np.nan
    histories.to_csv(tmp_path / HISTORIES, index=False)
    bounds.to_csv(tmp_path / BOUNDS, index=False)
    for name in ("4", "5b", "growth", "training"):
        figures.draw(name, params, "tiny", tmp_path)
    rows = rows_of(tmp_path / "figures/figure4.csv")
    assert all(row["standard_error"] == "" and float(row["bits_per_dim"]) > 0 for row in rows)
    histories["total"] = np.nan
    histories.to_csv(tmp_path / HISTORIES, index=False)
    with pytest.raises(UserError, match=r"history.csv: has no row with a total for pretrain vae-resolution~16, seed 0"):
        figures.draw("training", params, "tiny", tmp_path)


def test_other_numbers_of_samples_in_one_seed_are_refused(params: Params, tmp_path: Path) -> None:
    two = params.model_copy(update={"grid": params.grid.model_copy(update={"seeds": [0, 2]})})
    write_results(two, tmp_path)
    path = tmp_path / growth_path(grid.table_cells(two)[1], 2)
    pd.read_csv(path).iloc[:-1].to_csv(path, index=False)
    with pytest.raises(UserError, match=rf"{path}: has other numbers of samples than the first seed; make it with: snakemake"):
        figures.draw("growth", two, "tiny", tmp_path)


def test_the_step_draws_several_figures_each_with_its_record(params: Params, results: Path, tmp_path: Path) -> None:
    copy_inputs("4", params, results, tmp_path)
    with pytest.raises(UserError, match="no figure '7'"):
        step.run(["2", "7"], params, "tiny", tmp_path)
    assert not (tmp_path / "figures").exists()
    step.run(["2", "4"], params, "tiny", tmp_path)
    for name in ("2", "4"):
        record = json.loads((tmp_path / f"figures/figure{name}.json").read_text())
        assert set(record["inputs"]) == set(figures.inputs(name, params))
        assert {f"figures/{file}" for file in record["outputs"]} == set(figures.outputs(name))
