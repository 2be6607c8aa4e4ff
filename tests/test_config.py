import copy
import json

import pytest

from agave import config, grid, presets, yaml_files
from agave.config_checks import check_counts
from agave.presets import ConfigError


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
    assert [grid.parse_cell(name, size, vae_weight) for name in names] == grid.all_cells(params)


def test_the_paper_preset_carries_the_numbers_of_the_paper(document):
    params = config.resolve(document, "paper")
    assert {1, 2, 8, 12} <= set(params.grid.kl_weights) and params.grid.table_kl_weight == 12
    assert {256, 32} <= set(params.grid.levels) and params.grid.levels_kl_weight == 8
    assert {cell.resolution for cell in params.grid.resolutions} == {16, 8}
    assert params.evaluate.iwae_samples == 150 and params.evaluate.iwae_images is None
    assert all(t.learning_rate == 0.002 and t.cooldown_steps == 0 for t in (params.joint, params.pretrain.vae, params.pretrain.pixelcnn_pp))
    assert params.prepare.source == "cifar10" and params.compute.device == "cuda"
    assert (params.model.pixelcnn_pp.filters, params.model.pixelcnn_pp.resnets, params.model.pixelcnn_pp.mixtures) == (160, 5, 10)
    assert len(grid.all_cells(params)) == 17 + 9  # the grid, and the further systems of Table 1


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("demo.grid.levels", [256, 48], "demo.grid: levels 48 does not divide 256; accepted: 2, 4"),
        ("demo.grid.levels", [256, 256], "names a value twice"),
        ("demo.grid.kl_weights", [-1, 12], r"demo.grid.kl_weights.0: -1; accepted: a number from 0 to 1000$"),
        ("demo.grid.kl_weights", [1, 2], "table_kl_weight 12 is not in kl_weights; accepted: one of"),
        ("demo.grid.resolutions", [{"resolution": 10, "kl_weight": 1}], "resolution 10 is neither a half nor a quarter .* accepted: 16, 8"),
        ("demo.prepare.image_size", 33, "image_size 33 is not divisible by 2, .*; accepted: multiples of 2"),
        ("demo.joint.stepz", 1, "demo.joint.stepz: unknown key; accepted: steps, batch"),
        ("demo.jiont", {}, "demo.jiont: unknown key; accepted: prepare, model"),
        ("demo.joint.steps", 0, "demo.joint.steps: 0; accepted: an integer of at least 1$"),
        ("demo.joint.warmup_steps", 1000, "warmup_steps 1000 .* exceed steps 250; accepted"),
        ("demo.prepare.source", "imagenet", "demo.prepare.source: 'imagenet'; accepted: cifar10, images or photos$"),
        ("demo.model.vae.latent", 12, "hidden 32 and latent 12; accepted: one a multiple of the other"),
        ("demo.grid.resolutions", [{"resolution": 8, "kl_weight": 1}] * 2, "resolutions .* names a value twice"),
        ("demo.grid.kl_weights", [1e-7, 12], "KL weight 1e-07; accepted: at most six decimals"),
        ("demo.sample.images", 201, "sample.images 201 is more than there are test images; accepted: at most 200"),
        ("demo.evaluate.iwae_samples", 0, "evaluate.iwae_samples: 0; accepted: an integer of at least 1$"),
        ("demo.sample.completion_rows", 32, "sample.completion_rows 32; accepted: 1 to 31, below image_size"),
        ("demo.sample.temperature", 0, "sample.temperature: 0; accepted: a number above 0 and of at most 10$"),
        ("demo.evaluate.iwae_images", 999, "evaluate.iwae_images 999 is more than there are test images"),
        ("demo.prepare", {"source": "cifar10", "image_size": 16}, "the images of cifar10 have 32 pixels; accepted: 32"),
        ("demo.prepare.photos", {"smallest_crop": 300}, "smallest_crop 300 is larger than largest_crop 256"),
        ("demo.prepare.photos", {"smallest_crop": 16}, "smallest_crop 16 is smaller than prepare.image_size 32, .* accepted: at least 32"),
        ("demo.joint.steps", "20", "demo.joint.steps: '20' is text; accepted: an integer of at least 1$"),
        ("demo.joint.steps", True, "demo.joint.steps: true is a truth value; accepted: an integer"),
        ("demo.joint.steps", 20.0, r"demo.joint.steps: 20.0; accepted: an integer of at least 1$"),
        ("demo.joint.steps", 10**10, "demo.joint.steps: 10000000000; accepted: an integer from 1 to 1000000000$"),
        ("demo.joint.steps", None, "demo.joint.steps: is empty; accepted: an integer"),
        ("demo.joint.steps", {"a": 1}, "demo.joint.steps: is a block; accepted: an integer"),
        ("demo.joint", 5, "demo.joint: 5; accepted: a block of parameters$"),
        ("demo.joint.learning_rate", float("nan"), "demo.joint.learning_rate: nan; accepted: a number above 0"),
        ("demo.joint.skip_gradient_norm", float("inf"), "demo.joint.skip_gradient_norm: inf; accepted: a number above 0$"),
        ("demo.model.vae.free_bits", False, "free_bits: false is a truth value; accepted: a number of at least 0$"),
        ("demo.grid.seeds", ["1"], "demo.grid.seeds.0: '1' is text; accepted: an integer of at least 0$"),
        ("demo.grid.seeds", [-1], "demo.grid.seeds.0: -1; accepted: an integer of at least 0$"),
        ("demo.sample.seed", 2**63, "demo.sample.seed: 9223372036854775808; accepted: an integer from 0 to 9223372036854775807$"),
        ("demo.grid.kl_weights", 5, "demo.grid.kl_weights: 5; accepted: a list of 1 to 40, each a number from 0 to 1000$"),
        ("demo.grid.resolutions", [{"resolution": 16}], "demo.grid.resolutions.0.kl_weight: missing; accepted: a number"),
        ("demo.grid.seeds", [], "demo.grid.seeds: 0 values; accepted: a list of 1 to 1000, each an integer of at least 0$"),
        ("demo.prepare.path", "", "demo.prepare.path: '' is text; accepted: text of at least 1 character or null$"),
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
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="holds no mapping"):
        config.load(tmp_path / "list.yaml")
    (tmp_path / "nameless.yaml").write_text("demo: {}")
    with pytest.raises(ConfigError, match="preset: missing; accepted: the name of the preset that runs"):
        config.load(tmp_path / "nameless.yaml")
    (tmp_path / "empty.yaml").write_text("preset: demo")
    with pytest.raises(ConfigError, match="'paper', on which the others build, is missing"):
        config.load(tmp_path / "empty.yaml")


def test_origins_name_the_preset_that_set_a_value(document):
    origins = presets.origins(document, "demo")
    assert origins["joint.steps"] == "demo" and origins["evaluate.seed"] == "paper"


def test_the_defaults_are_the_preset_paper(document):
    assert config.Params() == config.resolve(document, "paper")


def test_a_mistake_in_any_preset_is_refused_whichever_is_asked_for(document):
    wrong = change(change(document, "tiny.joint.steps", 0), "study.joint.steps", "x")
    with pytest.raises(ConfigError) as error:
        config.resolve(wrong, "demo")
    assert [line.split(": ")[2] for line in str(error.value).splitlines()] == ["study.joint.steps", "tiny.joint.steps"]


@pytest.fixture
def edited(root, tmp_path):
    """Read params.yaml with one text in the place of another, in its last preset or where it stands once."""

    def read(old, new):
        text = (root / "params.yaml").read_text()
        place = text.rindex(old)
        (tmp_path / "params.yaml").write_text(text[:place] + new + text[place + len(old) :])
        return config.load(tmp_path / "params.yaml", "tiny"), 1 + text[:place].count("\n")

    return read


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "joint: {steps: 10,",
            "joint: {steps: 10, steps: 11,",
            "tiny.joint.steps: the key stands in line {line} already; accepted: each key once",
        ),
        ("joint: {steps: 10,", "joint: {steps: 010,", "tiny.joint.steps: 010 is octal in YAML 1.1"),
        ("joint: {steps: 10,", "joint: {steps: 0o10,", "tiny.joint.steps: 0o10 is text in YAML 1.1 and octal in YAML 1.2"),
        ("joint: {steps: 10,", "joint: {steps: 0x1F,", "tiny.joint.steps: 0x1F is hexadecimal in YAML 1.1"),
        ("joint: {steps: 10,", "joint: {steps: 12:30,", "tiny.joint.steps: 12:30 is a number to base 60 in YAML 1.1"),
        (
            "joint: {steps: 10,",
            "joint: {steps: yes,",
            "tiny.joint.steps: yes is a truth value in YAML 1.1, text in YAML 1.2; accepted: an integer",
        ),
        ("joint: {steps: 10,", "joint: {steps: '10',", "tiny.joint.steps: '10' is text; accepted: an integer of at least 1"),
        ("joint: {steps: 10,", "joint: {steps: !!int '10',", "tiny.joint.steps: the tag !!int; accepted: values without tags"),
        ("joint: {steps: 10,", "joint: {steps: 2026-01-01,", "tiny.joint.steps: 2026-01-01 is a timestamp in YAML 1.1"),
        (
            "learning_rate: 0.005, warmup_steps: 2",
            "learning_rate: 5e-3, warmup_steps: 2",
            "5e-3 is text in YAML 1.1 and a number in YAML 1.2, write 5.0e-3;",
        ),
        (
            "learning_rate: 0.005, warmup_steps: 2",
            "learning_rate: 1.5e3, warmup_steps: 2",
            "1.5e3 is text in YAML 1.1 and a number in YAML 1.2, write 1.5e[+]3;",
        ),
        (
            "learning_rate: 0.005, warmup_steps: 2",
            "learning_rate: .nan, warmup_steps: 2",
            "tiny.table1.training.learning_rate: nan; accepted: a number",
        ),
        ("latent: 4}", "latent: 4, free_bits: off}", "tiny.model.vae.free_bits: off is a truth value in YAML 1.1"),
        (
            "latent: 4}",
            "latent: 4, published_init: yes}",
            "tiny.model.vae.published_init: yes is a truth value .*; accepted: true or false",
        ),
        ("source: photos", "? {source: photos}\n    : 1", "a key in tiny.prepare that is not text: a list or mapping"),
        ("tiny:", "2024:", "a key that is not text: 2024 is a number; accepted: a name that begins with a letter"),
        ("tiny:", "on:", "a key that is not text: on is a truth value"),
        ("tiny:", "'on':", "on: no name for a preset; accepted: letters, digits, _ and - after a first letter, and no truth value"),
        ("tiny:", "a/b:", "a/b: no name for a preset"),
        ("tiny:", "images:", "images: an option of the command line has this name; accepted: another name for a preset"),
        ("tiny:", "tflops:", "tflops: an option of the command line has this name"),
        ("tiny:", "study:", "study: the key stands in line [0-9]+ already; accepted: each key once"),
        ("tiny:", "tiny: 5\nother:", "tiny: 5; accepted: a block of parameters, {{}} for none"),
        ("preset: demo", "preset: 5", "preset: 5; accepted: the name of a preset"),
        ("path: null", "path: 010", "paper.prepare.path: 010 is octal .*; accepted: text, this one in quotes"),
        ("  grid:\n    kl_weights: [2", "  grid: &a\n    kl_weights: [2, *a", "an anchor .* accepted: the value written out"),
        ("  grid:\n    kl_weights: [2", "  grid:\n\tkl_weights: [2", "not valid YAML: .*; accepted: a YAML file of presets"),
    ],
)
def test_what_yaml_reads_as_something_else_is_refused_with_its_line(edited, root, old, new, message):
    text = (root / "params.yaml").read_text()
    line = 1 + text[: text.rindex(old)].count("\n")
    with pytest.raises(ConfigError, match=message.format(line=line)) as error:
        edited(old, new)
    assert "\n" not in str(error.value)
    assert abs(int(str(error.value).partition(": line ")[2].partition(":")[0]) - line) <= 1


@pytest.mark.parametrize(
    ("old", "new"), [("joint: {steps: 10,", "joint: {steps: 1_0,"), ("tails: true", "tails: True"), ("path: null", "path: ~")]
)
def test_what_every_reader_of_yaml_takes_alike_is_accepted(edited, document, old, new):
    assert edited(old, new)[0] == config.resolve(document, "tiny")


@pytest.mark.parametrize(
    "text", ["a: [" * 3000, "a: &x [*x]\npreset: a", "{}", "a: 1\n---\nb: 2", "\x00", "a: " + "9" * 5000, "? [a]\n: 1"]
)
def test_broken_yaml_is_one_line(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        config.load(tmp_path / "params.yaml")
    assert len(str(error.value)) < 500


def test_a_value_that_is_ambiguous_stays_what_it_is_when_a_document_is_copied():
    document = yaml_files.parse_yaml("a: 010", "x.yaml", "")
    assert copy.deepcopy(document).lines == document.lines and copy.deepcopy(document)["a"].reading == document["a"].reading


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prepare.image_size": 10, "sample.completion_rows": 4}, "image_size 10 is not divisible by 4, which the claims need"),
        ({"evaluate.iwae_images": 1}, "evaluate.iwae_images: 1; accepted: an integer of at least 2 or null"),
        ({"prepare.photos.test_crops": 1}, "prepare.photos.test_crops: 1; accepted: an integer from 2 to 1000000"),
        ({"sample.images": 1}, "sample.images: 1; accepted: an integer of at least 2"),
        ({"joint.init_images": 129}, "joint.init_images 129 is more than there are training images; accepted: at most 128"),
        ({"pretrain.vae.init_images": 129}, "pretrain.vae.init_images 129 is more"),
        ({"model.vae.free_bits": 0.5, "compute.images_per_pass": 2}, "free_bits 0.5 needs the mean .* images_per_pass null or at least 4"),
        ({"figures.columns": 10**6}, "figures.columns: 1000000; accepted: an integer from 1 to 100"),
        ({"model.pixelcnn_pp.resnets": 10**6}, "resnets: 1000000; accepted: an integer from 1 to 100"),
        (
            {"prepare.source": "cifar10", "prepare.image_size": 32, "grid.resolutions": [], "prepare.test_images": 10001},
            "test_images 10001 is more than cifar10 has",
        ),
        (
            {
                "prepare.source": "cifar10",
                "prepare.image_size": 32,
                "grid.resolutions": [],
                "prepare.test_from_train": True,
                "prepare.train_images": 49_000,
            },
            "prepare.train_images 49000 and 8333 test images are more than the 50000 training images of cifar10",
        ),
    ],
)
def test_what_a_later_step_cannot_use_is_refused_at_the_start(document, changes, message):
    for dotted, value in changes.items():
        document = change(document, f"tiny.{dotted}", value)
    with pytest.raises(ConfigError, match=message):
        config.resolve(document, "tiny")


def test_counts_that_only_the_data_tell_are_refused_in_the_same_words(document):
    params = config.resolve(change(document, "tiny.prepare.source", "images"), "tiny")
    for train, test, message in (
        (100, 3, "sample.images 4 is more than there are test images; accepted: at most 3"),
        (100, 1, "test images: 1; accepted: at least 2"),
        (31, 16, "pretrain.vae.init_images 32 is more than there are training images; accepted: at most 31"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_counts(params, train, test)
    check_counts(params, 32, 4)


def test_a_negative_zero_is_zero(document):
    params = config.resolve(change(document, "tiny.grid.kl_weights", [-0.0, 8]), "tiny")
    assert grid.all_cells(params)[2].name.startswith("kl_weight~0-")


def test_the_preset_paper_in_the_file_is_the_one_that_is_described(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "docs"))
    import configuration

    assert (root / "params.yaml").read_text() == configuration.parameters(), "run `make schema`"


def test_every_parameter_is_described_in_a_sentence():
    schema = config.Params.model_json_schema()
    fields = [field for block in (schema, *schema["$defs"].values()) for field in block["properties"].items() if "$ref" not in field[1]]
    for name, field in fields:
        assert field["description"].endswith(".") and field["description"][0].isupper(), name
    assert len(fields) > 70 and json.dumps(schema).count('"open": ') > 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kl_weight~1-levels~3-resolution~32", "levels 3 does not divide 256"),
        ("kl_weight~1-levels~2-resolution~5", "resolution 5; accepted: 32, 16 or 8"),
        ("kl_weight~1.2.3-levels~2-resolution~32", "is not a cell name"),
    ],
)
def test_cells_that_cannot_be_trained_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        grid.parse_cell(name, 32)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"preset: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        config.load(tmp_path / "bytes.yaml")


@pytest.mark.parametrize("name", ["kl_weight~1", "kl_weight~x-levels~2-resolution~32", "../joint", "VAE", ""])
def test_wrong_cell_names_are_refused(name):
    with pytest.raises(ValueError, match="is not a cell name; accepted"):
        grid.parse_cell(name, 32)


def test_cell_names_of_small_and_large_weights():
    for weight in (0.0, 0.000001, 0.5, 12.0, 1000.0):
        cell = grid.Cell(kl_weight=weight)
        assert grid.parse_cell(cell.name, 32) == cell
