"""Which results of an earlier grid are set aside, and that nothing else is touched."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_results import write_results

from agave import grid
from agave.cli import main
from agave.config import Params, load
from agave.errors import UserError
from agave.grid import Cell
from agave.steps import prune

ROOT = Path(__file__).parent.parent


@pytest.fixture
def params() -> Params:
    return load(ROOT / "params.yaml", "tiny")


def with_grid(params: Params, **grid: object) -> Params:
    return params.model_copy(update={"grid": params.grid.model_copy(update=grid)})


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_nothing_of_the_grid_is_stale(params: Params, tmp_path: Path) -> None:
    params = with_grid(params, seeds=[0, 1])
    assert prune.stale(params, tmp_path) == []
    write_results(params, tmp_path)
    assert prune.stale(params, tmp_path) == []


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"kl_weights": [8.0]}, "kl_weight~2-levels~256-resolution~16"),
        ({"levels": [256]}, "kl_weight~8-levels~32-resolution~16"),
        ({"without_auxiliary_kl_weight": None}, "kl_weight~1-levels~256-resolution~16-auxiliary~none"),
    ],
)
def test_a_cell_that_leaves_the_grid_goes_whole(params: Params, tmp_path: Path, change: dict[str, object], gone: str) -> None:
    write_results(params, tmp_path)
    compresses = gone in {cell.name for cell in grid.codec_cells(params)}
    folders = ["codec"] * compresses + ["drawn", "evaluate", "joint", "sample"]
    assert prune.stale(with_grid(params, **change), tmp_path) == [f"{folder}/{gone}/seed~0" for folder in folders]


def test_seeds_and_pretrained_networks_and_bounds_go_too(params: Params, tmp_path: Path) -> None:
    write_results(with_grid(params, seeds=[0, 1]), tmp_path)
    stale = prune.stale(params, tmp_path)
    assert stale and all(path.endswith("/seed~1") for path in stale)
    low = "kl_weight~2-levels~256-resolution~8/seed~0"
    prune.set_aside(stale, tmp_path, tmp_path / "aside")
    assert prune.stale(with_grid(params, resolutions=[]), tmp_path) == [
        f"drawn/{low}",
        f"evaluate/{low}",
        f"joint/{low}",
        "pretrain/vae-resolution~8/seed~0",
        f"sample/{low}",
    ]
    other = with_grid(params, table_kl_weight=2.0)  # the model stays, its importance-sampled bound is in no table any more
    best = "kl_weight~8-levels~256-resolution~16/seed~0"  # nor does it compress
    files = [f"evaluate/{best}/{name}" for name in ("growth.csv", "iwae.csv", "iwae.npz")]
    assert prune.stale(other, tmp_path) == [f"codec/{best}", *files]


def test_files_of_other_origin_are_left_alone(params: Params, tmp_path: Path) -> None:
    write_results(params, tmp_path)
    cell = Cell(kl_weight=99.0, resolution=16).name
    for path in (
        "notes/seed~0/a",
        "joint/best model/seed~0/a",
        f"joint/{cell}/notes.txt",
        f"joint/{cell}/seed~0-old/a",
        f"tables/{cell}/seed~0/a",
        f"joint/{cell}-copy/seed~0/a",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("mine")
    assert prune.stale(params, tmp_path) == []


def test_set_aside_loses_nothing_and_can_be_undone(params: Params, tmp_path: Path) -> None:
    results, aside = tmp_path / "tiny", tmp_path / "aside" / "1"
    write_results(params, results)
    before = tree(results)
    paths = prune.stale(with_grid(params, kl_weights=[8.0], resolutions=[]), results)
    prune.set_aside(paths, results, aside)
    assert tree(results) | tree(aside) == before and not tree(results) & tree(aside)
    assert not (results / "joint/kl_weight~2-levels~256-resolution~8").exists()  # no empty folder stays
    assert prune.list_of(aside).read_text().split() == paths
    again = results / "sample/kl_weight~2-levels~256-resolution~8/seed~0/measures.npz"
    again.parent.mkdir(parents=True)
    again.write_text("newer")
    with pytest.raises(UserError, match="already exists"):
        prune.set_aside(["sample/kl_weight~2-levels~256-resolution~8/seed~0"], results, aside)
    assert again.read_text() == "newer"


def test_the_command_says_what_it_moves_and_takes_only_the_folder_of_the_preset(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(with_grid(params, seeds=[0, 3]), Path("results/tiny"))
    before = tree(tmp_path)
    common = ["prune", "--params", str(ROOT / "params.yaml"), "--preset"]
    wrong = CliRunner().invoke(main, [*common, "demo", "--results", "results/tiny"])
    assert wrong.exit_code == 1 and "results/tiny: not the folder of the preset demo" in wrong.output
    planned = CliRunner().invoke(main, [*common, "tiny", "--results", "results/tiny", "--dry-run"])
    assert planned.exit_code == 0 and tree(tmp_path) == before
    assert "results/tiny/joint/vae/seed~3 -> work/pruned/tiny/1/joint/vae/seed~3" in planned.output
    done = CliRunner().invoke(main, [*common, "tiny", "--results", "results/tiny"])
    assert done.exit_code == 0 and done.output.startswith(planned.output)
    assert not Path("results/tiny/joint/vae/seed~3").exists() and Path("work/pruned/tiny/1/joint/vae/seed~3/history.csv").exists()
    assert prune.free_folder("tiny") == Path("work/pruned/tiny/2")


def test_results_may_be_a_link_to_a_folder_of_another_name(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(with_grid(params, seeds=[0, 3]), tmp_path / "disk")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/tiny").symlink_to(tmp_path / "disk")
    common = ["prune", "--params", str(ROOT / "params.yaml"), "--preset", "tiny", "--results"]
    assert CliRunner().invoke(main, [*common, "disk"]).exit_code == 1
    done = CliRunner().invoke(main, [*common, "results/tiny"])
    assert done.exit_code == 0 and not (tmp_path / "disk/joint/vae/seed~3").exists()
