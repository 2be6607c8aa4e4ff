"""The steps `codec` and `formats`, the models in git, and the claim about code lengths."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from fake_results import write_results

from agave import claims, config, grid, tables
from agave.claims import language
from agave.cli import main
from agave.codec.compression import Codec
from agave.codec.image_formats import format_sizes
from agave.data.arrays import load_images
from agave.errors import UserError
from agave.files import sha256
from agave.models import make_model
from agave.models.files import describe_model
from agave.provenance.run_record import Recorder, RunRecord
from agave.results import TRAINING_RECORDS, Results, bound_path, codec_arrays_path
from agave.review import pretrained
from agave.runtime.checkpoints import write_tensors
from agave.runtime.devices import Place, images_to_tensor
from agave.steps.evaluate import Evaluation, evaluate_bound

CELLS = {"pixelcnn_pp": "exact", "kl_weight~2-levels~256-resolution~16": "elbo", "vae": "elbo"}
RECORDS = [
    "pretrain/vae-resolution~16/seed~0/run.json",
    "pretrain/pixelcnn_pp/seed~0/run.json",
    *(f"joint/{name}/seed~0/run.json" for name in list(CELLS)[:2]),
]


@pytest.fixture(scope="module")
def document(root):
    return config.read(root / "params.yaml")


@pytest.fixture(scope="module")
def params(document):
    return config.resolve(document, "tiny")


@pytest.fixture(scope="module")
def here(tmp_path_factory, root, params):
    """Prepared images, and for each cell a model that has only been initialised, with its bound, as the workflow lays them out."""
    folder = tmp_path_factory.mktemp("codec")
    run(root, "prepare", "--output", folder / "prepare")
    x = images_to_tensor(load_images(folder / "prepare", "train")[:64], torch.device("cpu"))
    for name in CELLS:
        cell = grid.parse_cell(name, 16)
        torch.manual_seed(0)
        model = make_model(cell.system, params, 16)
        model.initialise(x, x)
        write_tensors(folder / name / "model.safetensors", model.state_dict(), describe_model(cell, params))
        weights, place = folder / name / "model.safetensors", Place(folder / "work", device="cpu")
        evaluate_bound(Evaluation(params, cell, 0, folder / "prepare", weights, folder / name), place)
    return folder


def run(root, *arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments), "--params", str(root / "params.yaml"), "--preset", "tiny"])
    assert result.exit_code == code, result.output
    return result.output


def compress(root, here, name, output, code=0, **other):
    options = {"model": here / name / "model.safetensors", "bound": here / name / "per_image.npz", "data": here / "prepare"} | other
    given = [word for option, value in options.items() for word in (f"--{option}", value)]
    return run(root, "codec", name, "--output", output, "--threads", 1, *given, code=code)


@pytest.mark.parametrize("name", CELLS)
def test_the_step_measures_the_file_that_it_writes(root, here, name, tmp_path):
    compress(root, here, name, tmp_path)
    test, arrays = load_images(here / "prepare", "test"), np.load(tmp_path / "codec.npz")
    data, row = (tmp_path / "images.agv").read_bytes(), pd.read_csv(tmp_path / "codec.csv").iloc[0]
    assert np.array_equal(Codec.of_file(here / name / "model.safetensors").decompress(data), test)
    terms = np.load(here / name / "per_image.npz")
    bound = (terms["kl"] - terms["log_prob_x" if name != "vae" else "log_prob_y"]) / np.log(2)
    np.testing.assert_allclose(arrays["bound_bits"], bound)
    assert (row["images"], row["exact_images"], row["bound"]) == (len(test), len(test), CELLS[name])
    assert row["file_bytes"] == len(data) and row["file_bits_per_dim"] == pytest.approx(8 * len(data) / test.size)
    assert row["bound_bits_per_dim"] == pytest.approx(bound.sum() / test.size)
    assert row["overhead_percent"] == pytest.approx(100 * (8 * len(data) / bound.sum() - 1), abs=1e-5)
    assert row["images_without_latent_variables"] == len(test) - arrays["by_model"].sum()
    record = json.loads((tmp_path / "codec.json").read_text())
    assert set(record["outputs"]) == {"codec.csv", "codec.npz", "images.agv"} and record["outputs"]["images.agv"] == sha256(
        tmp_path / "images.agv"
    )


def test_the_same_command_makes_the_same_bytes(root, here, tmp_path):
    for folder in ("first", "second"):
        compress(root, here, "pixelcnn_pp", tmp_path / folder)
    for name in ("images.agv", "codec.csv", "codec.npz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_bad_input_is_refused_before_anything_is_written(root, here, tmp_path):
    np.savez(tmp_path / "short.npz", kl=np.zeros(3), log_prob_x=np.zeros(3))
    output = compress(root, here, "pixelcnn_pp", tmp_path / "out", code=1, bound=tmp_path / "short.npz")
    assert "short.npz: lacks kl of 16 images; accepted: per_image.npz of `agave evaluate bound pixelcnn_pp`" in output
    output = compress(root, here, "pixelcnn_pp", tmp_path / "out", code=1, model=here / "vae/model.safetensors")
    assert "holds the model of cell vae; accepted: pixelcnn_pp" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"cells": ["agave"]}, "codec.cells.0"),
        ({"cells": ["vae", "vae"]}, "names one twice; accepted: distinct names"),
        ({"images": 0}, "codec.images"),
        ({"group": 0}, "codec.group"),
    ],
)
def test_parameters_that_are_refused(document, value, message):
    with pytest.raises(config.presets.ConfigError, match=message):
        config.resolve({**document, "tiny": {**document["tiny"], "codec": value}}, "tiny")


def test_fewer_test_images_than_asked_for_are_all_compressed(document, params):
    assert config.resolve({**document, "tiny": {**document["tiny"], "codec": {"images": 10_000}}}, "tiny").codec.images == 10_000
    assert [cell.name for cell in grid.codec_cells(params)] == [
        "pixelcnn_pp",
        "kl_weight~8-levels~256-resolution~16",
        "kl_weight~2-levels~256-resolution~16",
        "vae",
    ]


def test_image_formats_give_the_images_back_and_know_their_headers():
    smooth = np.add.outer(np.arange(16), np.arange(16))[None, ..., None].repeat(3, 3).repeat(6, 0).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    rows = {row["format"]: row for row in format_sizes(noise, True, "noise")}
    assert list(rows) == ["PNG", "WebP", "PNG, oxipng", "JPEG-LS", "AVIF", "JPEG XL"]
    for row in rows.values():
        assert row["one_file_each_bits_per_dim"] > row["one_picture_bits_per_dim"] > 7.9  # noise cannot be compressed
        assert 7.9 < row["without_header_bits_per_dim"] < row["one_file_each_bits_per_dim"]
    for row in format_sizes(smooth, True, "smooth"):
        assert row["one_picture_bits_per_dim"] < 4 and row["images"] == 6


def test_a_package_that_is_missing_is_named(root, here, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    output = run(root, "formats", "--data", here / "prepare", "--output", tmp_path / "out", code=1)
    assert "the package imagecodecs is not installed; accepted: pip install 'agave[codecs]', or codec.others false" in output
    assert not (tmp_path / "out").exists() and [row["format"] for row in format_sizes(np.zeros((1, 8, 8, 3), np.uint8), False, "")] == [
        "PNG",
        "WebP",
    ]


@pytest.fixture(scope="module")
def results(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_results(params, folder)
    tables.write_tables(params, "tiny", folder)
    return folder


def test_the_table_has_models_and_formats(params, results):
    text = (results / "tables/codec.md").read_text()
    table = pd.read_csv(results / "tables/codec.csv")
    assert table["coder"].tolist()[:2] == ["PixelCNN++", "AGAVE, λ = 8"] and table["coder"].tolist()[-3:] == ["PNG", "WebP", "JPEG XL"]
    assert "16 of 16" in text and "one-sample bound" in text and "| JPEG XL" in text and "its size is in no number" in text


def test_the_claim_is_about_images_coded_by_the_model(params, results, root, tmp_path):
    claim = next(one for one in language.load(root / "claims.yaml") if one.id == "C32")
    source = Results(params, "tiny", results)
    decision = claims.decide(claim, claims.Evidence(source))
    assert decision.verdict == "holds" and len(decision.comparisons) == 4  # though the first two images cost 5 % more
    path = results / codec_arrays_path(grid.codec_cells(params)[0], 0)
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"bits": arrays["bound_bits"] * 1.01})
    try:
        assert claims.decide(claim, claims.Evidence(source)).verdict == "does not hold"
    finally:
        np.savez(path, **arrays)


@pytest.fixture
def given(params, here, tmp_path, root):
    """Results of a preset with trained models, and copies of the models as git keeps them."""
    results = tmp_path / "results/tiny"
    source = Results(
        params.model_copy(update={"grid": params.grid.model_copy(update={"kl_weights": [2.0], "table_kl_weight": 2.0})}), "tiny", results
    )
    (results / "prepare").mkdir(parents=True)
    for file in (here / "prepare").iterdir():
        (results / "prepare" / file.name).write_bytes(file.read_bytes())
    for name in list(CELLS)[:2]:
        for path, file in ((f"joint/{name}/seed~0", "model.safetensors"), (f"evaluate/{name}/seed~0", "bound.csv")):
            (results / path).mkdir(parents=True)
            (results / path / file).write_bytes((here / name / file).read_bytes())
        compress(root, here, name, results / "codec" / name / "seed~0")
    for path in RECORDS:
        step, name, _, _ = path.split("/")
        file = results / Path(path).with_name("model.safetensors")
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_bytes(b"pretrained")
        training = {"joint": params.joint, "pretrain": params.pretrain.vae if name.startswith("vae") else params.pretrain.pixelcnn_pp}[step]
        Recorder(step, {"training": training.model_dump()}, {}).write(results / path, [file])
    return source, [RunRecord.read(source, path) for path in ("prepare/run.json", *RECORDS)]


def test_models_are_copied_with_a_card_each(given, tmp_path):
    source, records = given
    for path in pretrained.write_pretrained(source, records, tmp_path / "pretrained"):
        card = (path.parent / "README.md").read_text()
        assert sha256(path) in card and "photos train (128 crops)" in card
        assert "20 steps of 4 images, joint 10 steps of 4 images; seed 0" in card
        assert (path.parent / "images.agv").read_bytes() == (source.folder / "codec" / path.parent.name / "seed~0/images.agv").read_bytes()
    bits = pd.read_csv(source.folder / "evaluate/pixelcnn_pp/seed~0/bound.csv")["pixelcnn_bits_per_dim"][0]
    card = (tmp_path / "pretrained/pixelcnn_pp/README.md").read_text()
    assert f"{bits:.6f} bits/dim on photos test (16 crops): the exact likelihood" in card
    own = source.params.prepare.model_copy(update={"source": "images", "path": "mine.npz"})
    with pytest.raises(UserError, match="its images are not in the project; accepted: a preset of the embedded photographs"):
        pretrained.write_pretrained(replace(source, params=source.params.model_copy(update={"prepare": own})), records, tmp_path)


def test_what_is_said_of_the_models_in_git_is_computed_again(given, tmp_path):
    source, records = given
    folder = tmp_path / "pretrained"
    pretrained.write_pretrained(source, records, folder)
    check = pretrained.check_pretrained(folder)
    assert check.problems == [] and "bounds of 2 models" in check.summary and "2 files decompressed" in check.summary
    facts, compressed = folder / "pixelcnn_pp/facts.json", folder / "pixelcnn_pp/images.agv"
    content = json.loads(facts.read_text())
    facts.write_text(json.dumps(content | {"bits_per_dim": content["bits_per_dim"] + 1e-5}))
    compressed.write_bytes(compressed.read_bytes()[:-1])
    weights = folder / "kl_weight~2-levels~256-resolution~16/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"0")
    other, *problems = pretrained.check_pretrained(folder).problems
    assert "model.safetensors: another file than facts.json beside it says" in other
    assert len(problems) == 2 and "gives another bound than facts.json" in problems[0] and "by 1e-05" in problems[0]
    assert "images.agv: damaged" in problems[1]
    facts.write_text(json.dumps(content | {"prepare": content["prepare"] | {"seed": 1}}))
    assert "gives other images than those that were evaluated" in pretrained.check_pretrained(folder).problems[1]
    assert "holds no model; bring them back with: git checkout HEAD" in pretrained.check_pretrained(tmp_path / "absent").problems[0]


def test_the_models_in_git_are_those_of_the_demo_in_git(root):
    """That they give what is said of them is computed by `make verify`; here only hashes and numbers are compared."""
    source = Results(config.load(root / "params.yaml", "demo"), "demo", root / "results/demo")
    trained = {path: digest for record in RunRecord.read_lines(source, TRAINING_RECORDS) for path, digest in record.files.items()}
    for cell in pretrained.given_away(source):
        facts = json.loads((root / "pretrained" / cell.name / "facts.json").read_text())
        digest = trained[f"joint/{cell.name}/seed~0/model.safetensors"]
        assert facts["sha256"] == digest == sha256(root / "pretrained" / cell.name / "model.safetensors")
        table = pd.read_csv(root / "results/demo" / bound_path(cell, 0))
        assert facts["bits_per_dim"] == table["pixelcnn_bits_per_dim"][0]


@pytest.mark.integration
def test_the_models_in_git_give_what_is_said_of_them(root):
    """In a process of its own: the type checker of the tests makes decompressing slow."""
    code = "from agave.review.pretrained import check_pretrained as check; found = check(); print(found.summary); assert not found.problems"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "bounds of 3 models" in done.stdout, done.stdout + done.stderr
