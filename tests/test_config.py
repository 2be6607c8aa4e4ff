import copy

import pytest
import yaml

from agave import config, grid
from agave.config import ConfigError


@pytest.fixture
def document(root):
    return config.read(root / "params.yaml")


def change(document, dotted, value, remove=False):
    changed = copy.deepcopy(document)
    *path, last = dotted.split(".")
    block = changed
    for key in path:
        block = block.setdefault(key, {})
    if remove:
        del block[last]
    else:
        block[last] = value
    return changed


@pytest.mark.parametrize("preset", ["paper", "study", "demo", "tiny"])
def test_every_preset_is_valid_and_has_distinct_cells(document, preset):
    params = config.resolve(document, preset)
    names = [cell.name for cell in grid.all_cells(params)]
    assert len(names) == len(set(names))
    vae_weight, size = params.pretrain.vae_kl_weight, params.prepare.image_size
    assert [grid.parse(name, size, vae_weight) for name in names] == grid.all_cells(params)


def test_the_paper_preset_carries_the_numbers_of_the_paper(document):
    params = config.resolve(document, "paper")
    assert {1, 2, 8, 12} <= set(params.grid.kl_weights) and params.grid.table_kl_weight == 12
    assert {256, 32} <= set(params.grid.levels) and params.grid.levels_kl_weight == 8
    assert {cell.resolution for cell in params.grid.resolutions} == {16, 8}
    assert params.evaluate.iwae_samples == 150 and params.evaluate.iwae_images is None
    assert all(t.learning_rate == 0.002 and t.cooldown_steps == 0 for t in (params.joint, params.pretrain.vae, params.pretrain.pixelcnn_pp))
    assert params.prepare.source == "cifar10" and params.compute.device == "cuda"
    assert (params.model.pixelcnn_pp.filters, params.model.pixelcnn_pp.resnets, params.model.pixelcnn_pp.mixtures) == (160, 5, 10)
    assert len(grid.all_cells(params)) == 17


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("demo.grid.levels", [256, 48], "demo.grid: levels 48 does not divide 256; accepted: 2, 4"),
        ("demo.grid.levels", [256, 256], "names a value twice"),
        ("demo.grid.kl_weights", [-1, 12], "demo.grid.kl_weights.0: -1: "),
        ("demo.grid.kl_weights", [1, 2], "table_kl_weight 12 is not in kl_weights; accepted: one of"),
        ("demo.grid.resolutions", [{"resolution": 10, "kl_weight": 1}], "resolution 10 is no half or quarter .* accepted: 16, 8"),
        ("demo.prepare.image_size", 33, "image_size 33 is not divisible by 2, .*; accepted: multiples of 2"),
        ("demo.joint.stepz", 1, "demo.joint.stepz: unknown key; accepted: steps, batch"),
        ("demo.jiont", {}, "demo.jiont: unknown key; accepted: prepare, model"),
        ("demo.joint.steps", 0, "demo.joint.steps: 0: .*greater than or equal to 1"),
        ("demo.joint.warmup_steps", 1000, "warmup_steps 1000 .* exceed steps 300; accepted"),
        ("demo.prepare.source", "imagenet", "demo.prepare.source: 'imagenet': .*'cifar10', 'images' or 'photos'"),
        ("demo.model.vae.latent", 12, "hidden 32 and latent 12; accepted: one a multiple of the other"),
        ("demo.grid.resolutions", [{"resolution": 8, "kl_weight": 1}] * 2, "resolutions .* names a value twice"),
        ("demo.grid.kl_weights", [1e-7, 12], "KL weight 1e-07; accepted: at most six decimals"),
        ("demo.sample.images", 201, "sample.images 201 is more than there are test images; accepted: at most 200"),
        ("demo.evaluate.iwae_samples", 0, "evaluate.iwae_samples: 0: .* greater than or equal to 1"),
        ("demo.sample.completion_rows", 32, "sample.completion_rows 32; accepted: 1 to 31, below image_size"),
        ("demo.sample.temperature", 0, "sample.temperature: 0: .* greater than 0"),
        ("demo.evaluate.iwae_images", 999, "evaluate.iwae_images 999 is more than there are test images"),
        ("demo.prepare", {"source": "cifar10", "image_size": 16}, "the images of cifar10 have 32 pixels; accepted: 32"),
        ("demo.prepare.photos", {"smallest_crop": 300}, "smallest_crop 300 is larger than largest_crop 256"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(document, dotted, value, message):
    with pytest.raises(ConfigError, match=message) as error:
        config.resolve(change(document, dotted, value), "demo")
    assert str(error.value).startswith("params.yaml: ")


def test_an_incomplete_paper_preset_is_refused(document):
    with pytest.raises(ConfigError, match=r"paper\.model\.likelihood\.tails: missing"):
        config.resolve(change(document, "paper.model.likelihood.tails", None, remove=True), "paper")


def test_wrong_preset_and_broken_files(tmp_path, document):
    with pytest.raises(ConfigError, match="no preset 'dmeo'; accepted: paper, study, demo, tiny"):
        config.resolve(document, "dmeo")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("preset: [")
    with pytest.raises(ConfigError, match="no valid YAML"):
        config.load(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="holds no mapping"):
        config.load(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("preset: demo")
    with pytest.raises(ConfigError, match="'paper', on which the others build, is missing"):
        config.load(tmp_path / "empty.yaml")


def test_origins_name_the_preset_that_set_a_value(document):
    origins = config.origins(document, "demo")
    assert origins["joint.steps"] == "demo" and origins["evaluate.seed"] == "paper"


def test_every_number_of_the_paper_preset_has_a_comment_or_a_commented_block(root):
    """A newcomer reads params.yaml from top to bottom: no unexplained key in `paper`, seen at its first occurrence."""
    text = (root / "params.yaml").read_text()
    block = text[text.index("\npaper:") : text.index("\nstudy:")]
    explained, missing = set(), []
    for line in block.splitlines():
        key = line.split(":")[0].strip()
        if ":" not in line or line.strip().startswith("#") or key.startswith("-"):
            continue
        if "#" in line:
            explained.add(key)
        elif key not in explained and line.split("#")[0].rstrip()[-1] != ":":
            missing.append(key)
    assert not missing
    assert yaml.safe_load(text)["preset"] == "demo"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kl_weight~1-levels~3-resolution~32", "levels 3 does not divide 256"),
        ("kl_weight~1-levels~2-resolution~5", "resolution 5; accepted: 32, 16 or 8"),
        ("kl_weight~1.2.3-levels~2-resolution~32", "is no cell name"),
    ],
)
def test_cells_that_cannot_be_trained_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        grid.parse(name, 32)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"preset: \xff\xfe")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        config.load(tmp_path / "bytes.yaml")


@pytest.mark.parametrize("name", ["kl_weight~1", "kl_weight~x-levels~2-resolution~32", "../joint", "VAE", ""])
def test_wrong_cell_names_are_refused(name):
    with pytest.raises(ValueError, match="is no cell name; accepted"):
        grid.parse(name, 32)


def test_cell_names_of_small_and_large_weights():
    for weight in (0.0, 0.000001, 0.5, 12.0, 1000.0):
        cell = grid.Cell(kl_weight=weight)
        assert grid.parse(cell.name, 32) == cell
