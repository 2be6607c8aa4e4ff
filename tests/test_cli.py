"""The command line as a user meets it: help, dry runs, one clear error for each mistake, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from agave.cli import main
from agave.errors import UserError

STEPS = [
    "config",
    "prepare",
    "pretrain",
    "joint",
    "trainings",
    "evaluate",
    "evaluate bound",
    "evaluate iwae",
    "evaluate gather",
    "sample",
    "tables",
    "figures",
    "claims",
    "records",
    "page",
    "verify",
    "crate",
    "prune",
    "digest",
    "models",
    "plan",
    "summary",
    "report",
    "import-weights",
    "export-weights",
    "compress",
    "decompress",
]
CELL = "kl_weight~2-levels~256-resolution~16"


@pytest.fixture
def run(root, monkeypatch):
    monkeypatch.chdir(root)

    def invoke(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    return invoke


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, root):
    """Images of the preset tiny."""
    folder = tmp_path_factory.mktemp("prepared")
    arguments = ["prepare", "--params", str(root / "params.yaml"), "--preset", "tiny", "--output", str(folder)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "photos test (16 crops): 16 images" in result.output
    return folder


@pytest.mark.parametrize("step", STEPS)
def test_help(run, step):
    result = run(*step.split(), "--help")
    assert result.exit_code == 0 and "Usage: main " + step in result.output


def commands(group, path=()):
    for name, command in group.commands.items():
        yield from commands(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]


@pytest.mark.parametrize(("path", "command"), list(commands(main)), ids=lambda value: "-".join(value) if isinstance(value, tuple) else "")
def test_the_help_of_every_option_is_a_sentence(path, command):
    assert command.help.partition("\n")[0].rstrip(".")[0].isupper()
    for option in command.params:
        if option.param_type_name == "option" and option.name != "help":
            sentence = option.help.partition("; also $")[0]
            assert sentence[0].isupper() and option.help.endswith("."), (path, option.name)
            told = "(default: " in option.help or "needed for" in option.help
            stated = option.required or option.is_flag or option.default is not None or told
            assert stated, (path, option.name)


def test_help_imports_no_torch_and_is_quick(root):
    code = "import sys, agave.cli; assert not {'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_systems_are_listed_with_their_sizes_and_without_torch(root):
    code = "import sys; from agave.cli import main; main(['models', '--preset', 'paper'], standalone_mode=False)\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True)
    rows = [line.split()[:3] for line in done.stdout.splitlines()]
    assert rows[1:4] == [["agave", "elbo", "106,845,329"], ["vae_iaf", "elbo", "41,557,929"], ["pixelcnn_pp", "exact", "53,659,080"]]


def test_the_systems_that_are_listed_are_those_that_can_be_made():
    from agave.models import REGISTRY, SYSTEMS

    assert {name: entry.bound for name, entry in REGISTRY.items()} == {name: SYSTEMS[name].bound for name in SYSTEMS}


def test_a_terminal_without_the_characters_is_no_error(root):
    """As in a locale of one byte a character; λ is in the claims."""
    code = "import click; from agave.cli import main; main.command('say')(lambda: click.echo('λ')); main(['say'])"
    environment = os.environ | {"PYTHONIOENCODING": "iso-8859-1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\\u03bb\n"), done.stderr


def test_variables_of_another_launcher_do_not_count(prepared, tmp_path, root):
    environment = os.environ | {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    command = [sys.executable, "-m", "agave.cli", *pretrain(prepared, tmp_path, "pixelcnn_pp")]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pixelcnn_pp/model.safetensors").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "results/x"), "error: results/x: Permission denied"),
        (
            MemoryError("Unable to allocate 3. TiB"),
            "error: say: not enough memory (Unable to allocate 3. TiB); accepted: fewer",
        ),
        (RuntimeError("CUDA out of memory. Tried"), "error: say: not enough memory (CUDA out of memory. Tried); accepted"),
        (UserError("one\ntwo"), "error: one\nerror: two\n"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, message):
    from agave.cli_options import Command

    def fail():
        raise error

    done = CliRunner().invoke(Command("say", callback=fail))
    assert done.exit_code == 1 and done.output.startswith(message)


def test_config_prints_values_and_origins(run):
    result = run("config", "--preset", "tiny")
    assert result.exit_code == 0
    lines = {line.split(":")[0]: line for line in result.output.splitlines()}
    assert lines["joint.steps"].split()[1:] == ["10", "#", "tiny"]
    assert lines["joint.cooldown_steps"].split()[1:] == ["0", "#", "paper"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "--output", "out"],
        ["pretrain", "vae", "--data", "d", "--output", "out"],
        ["joint", CELL, "--data", "d", "--output", "out"],
    ],
)
def test_dry_run_prints_the_resolved_options_and_writes_nothing(run, arguments, tmp_path):
    before = sorted(Path().iterdir())
    result = run(*arguments, "--preset", "tiny", "--dry-run")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.output)["output"] == "out"
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "--preset", "dmeo"], "no preset 'dmeo'; accepted: paper"),
        (["joint", "kl_weight~2", "--data", "d", "--output", "o"], "is not a cell name; accepted"),
        (["joint", CELL, "--preset", "tiny", "--data", "d", "--output", "o"], "needs pretrained weights; give --vae FILE"),
        (["pretrain", "gan", "--data", "d", "--output", "o"], "'gan' is not one of 'vae', 'pixelcnn_pp'"),
        (
            ["pretrain", "vae", "--preset", "tiny", "--seed", "-1", "--data", "d", "--output", "o"],
            "-1 is not in the range 0<=x<=",
        ),
        (["pretrain", "vae", "--preset", "tiny", "--data", "absent", "--output", "o"], "absent"),
        (["sample", CELL, "--preset", "tiny", "--data", "d", "--output", "o", "--model", "absent"], "'absent' does not exist"),
        (
            ["evaluate", "iwae", "pixelcnn_pp", "--preset=tiny", "--data=d", "--output=o", "--model=README.md"],
            "pixelcnn_pp: its likelihood is exact, there is nothing to draw samples of; accepted: vae, kl_weight~8",
        ),
        (
            ["evaluate", "iwae", "aux_pixelcnn", "--preset=tiny", "--data=d", "--output=o", "--model=README.md"],
            "aux_pixelcnn: its bound has no noise",
        ),
        (["figures", "9", "--preset", "tiny", "--results", "r"], "9"),
        (["digest", "train"], "there is no step 'train'; accepted: prepare"),
    ],
)
def test_mistakes_are_named(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code != 0
    assert message in result.output and "Traceback" not in result.output
    assert not Path("o").exists()


def test_a_paper_preset_training_without_a_gpu_says_so_and_names_the_way_out(run, prepared, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = run("pretrain", "vae", "--preset", "paper", "--data", prepared, "--output", tmp_path / "o", "--state-dir", tmp_path / "w")
    assert result.exit_code == 1
    assert "this machine shows no GPU" in result.output and "--device cpu" in result.output
    assert not (tmp_path / "o").exists() and not (tmp_path / "w").exists()


def pretrain(prepared, folder, part, *more):
    arguments = ["pretrain", part, "--preset", "tiny", "--data", prepared, "--output", folder / part, "--state-dir", folder / "work", *more]
    return [str(a) for a in arguments]


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory, root):
    """Both pretrained networks and a joint model of the preset tiny."""
    folder = tmp_path_factory.mktemp("trained")
    os.chdir(root)
    joint = ["joint", CELL, "--preset", "tiny", "--data", prepared, "--output", folder / "joint", "--state-dir", folder / "work"]
    joint += ["--vae", folder / "vae" / "model.safetensors", "--pixelcnn-pp", folder / "pixelcnn_pp" / "model.safetensors"]
    for arguments in (pretrain(prepared, folder, "vae"), pretrain(prepared, folder, "pixelcnn_pp"), joint):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
    return folder


def test_steps_in_order_write_what_the_next_one_reads(run, prepared, trained, tmp_path):
    assert {p.name for p in (trained / "joint").iterdir()} == {"model.safetensors", "raw.safetensors", "history.csv", "run.json"}
    common = [CELL, "--preset", "tiny", "--data", prepared, "--model", trained / "joint" / "model.safetensors", "--output", tmp_path]
    for arguments in (["evaluate", "bound", *common], ["evaluate", "iwae", *common], ["sample", *common]):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    import numpy as np
    import pandas as pd

    bound, iwae = (pd.read_csv(tmp_path / f"{name}.csv").iloc[0] for name in ("bound", "iwae"))
    # claim C11: the bounds are the sums of their terms
    assert bound.pixelcnn_bits_per_dim == pytest.approx(bound.kl + bound.pixelcnn_reconstruction, rel=1e-7)
    assert bound.vae_bits_per_dim == pytest.approx(bound.kl + bound.vae_reconstruction, rel=1e-7)
    with np.load(tmp_path / "per_image.npz") as terms:
        assert len(terms["kl"]) == bound.images == 16
        nats = (terms["kl"] - terms["log_prob_x"]).mean()
    assert bound.pixelcnn_bits_per_dim == pytest.approx(nats / (768 * np.log(2)), rel=1e-7)
    assert iwae.iwae_bits_per_dim <= iwae.elbo_bits_per_dim and iwae.samples == 2  # claim C4
    with np.load(tmp_path / "samples.npz") as samples:
        assert {k: v.shape for k, v in samples.items()} == dict.fromkeys(
            ["original", "reconstruction", "reconstruction_sample", "prior", "prior_sample", "completion"], (4, 16, 16, 3)
        )
        with np.load(tmp_path / "shown.npz") as shown:
            assert all(np.array_equal(shown[name], samples[name]) for name in samples.files)  # fewer than sample.shown
        with np.load(tmp_path / "measures.npz") as measures:
            assert measures["reconstruction_change"].shape == (4,) and measures["reconstruction_change"].dtype == np.float32
            assert "coarse_prior_sample" in measures and "coarse_original" not in measures  # those of the test images: PixelCNN++ alone


def test_results_do_not_depend_on_the_batch(prepared, trained, root, tmp_path):
    import numpy as np
    import torch

    from agave.auxiliary_image import auxiliary_image
    from agave.data.arrays import load_images
    from agave.evaluation.importance import iwae_bounds
    from agave.evaluation.one_sample import one_sample_terms
    from agave.models import load as load_model
    from agave.runtime.devices import images_to_tensor

    model = load_model(trained / "joint" / "model.safetensors").double()
    model.likelihood_dtype = torch.float64
    x = images_to_tensor(load_images(prepared, "test")[:5], torch.device("cpu"))
    y = auxiliary_image(x, 16)
    one, other = (one_sample_terms(model, x, y, seed=0, batch=batch) for batch in (5, 2))
    assert all(np.abs(one[k] - other[k]).max() < 1e-8 for k in one)
    bounds = [iwae_bounds(model, x, y, samples=5, seed=0, batch=batch) for batch in (5, 2)]
    assert all(np.abs(bounds[0][k] - bounds[1][k]).max() < 1e-8 for k in bounds[0])
    single = iwae_bounds(model, x, y, samples=1, seed=0, batch=1)
    assert np.abs(single["iwae"] - (one["log_prob_x"] - one["kl"])).max() < 1e-8  # L_1 is the one-sample bound
    assert (bounds[0]["iwae"] >= bounds[0]["elbo"]).all()


def test_same_seed_same_bytes(prepared, trained, tmp_path, run):
    assert run(*pretrain(prepared, tmp_path, "vae")).exit_code == 0
    for name in ("model.safetensors", "raw.safetensors"):
        assert (tmp_path / "vae" / name).read_bytes() == (trained / "vae" / name).read_bytes()
    first, second = ((folder / "vae/history.csv").read_text().splitlines() for folder in (trained, tmp_path))
    assert first[0].endswith(",images_per_second")  # the last column is the one that no rerun repeats
    assert [line.rpartition(",")[0] for line in first] == [line.rpartition(",")[0] for line in second]


def test_models_of_another_kind_are_refused(run, prepared, trained, tmp_path):
    other = CELL.replace("~2-", "~8-")
    common = ["--preset", "tiny", "--data", prepared, "--output", tmp_path / "o"]
    result = run("evaluate", "bound", other, "--model", trained / "joint" / "model.safetensors", *common)
    assert result.exit_code == 1 and f"holds the model of cell {CELL}; accepted: {other}" in result.output
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes((trained / "joint" / "model.safetensors").read_bytes()[:-100])
    result = run("evaluate", "bound", CELL, "--model", truncated, *common)
    assert result.exit_code == 1 and "truncated, or not a safetensors file" in result.output
    swapped = ["--vae", trained / "pixelcnn_pp" / "model.safetensors", "--pixelcnn-pp", trained / "vae" / "model.safetensors"]
    result = run("joint", CELL, *common, "--state-dir", tmp_path / "w", *swapped)
    assert result.exit_code == 1 and "weights of another architecture" in result.output
    low = CELL.replace("resolution~16", "resolution~8")
    pair = [f"--{part.replace('_', '-')}={trained / part / 'model.safetensors'}" for part in ("vae", "pixelcnn_pp")]
    result = run("joint", low, *common, "--state-dir", tmp_path / "w", *pair)
    assert result.exit_code == 1 and "a VAE for y of 16 pixels; accepted: 8 pixels" in result.output
    assert not (tmp_path / "o").exists()


def test_term_saves_and_a_rerun_resumes(prepared, trained, tmp_path, root):
    """As a process, killed as a cluster would: state saved, exit code 1, and the same weights in the end."""
    arguments = [sys.executable, "-m", "agave.cli", *pretrain(prepared, tmp_path, "vae", "--save-every", 0)]
    process = subprocess.Popen(arguments, cwd=root, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "work").glob("*/state-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    if process.returncode != 0:  # otherwise the 20 steps were over before the signal came
        assert process.returncode == 1 and "interrupted at step" in errors and "run again to resume" in errors
        assert not (tmp_path / "vae").exists()
        subprocess.run(arguments, cwd=root, check=True, capture_output=True)
    assert (tmp_path / "vae" / "model.safetensors").read_bytes() == (trained / "vae" / "model.safetensors").read_bytes()


def test_a_full_disk_is_named_and_leaves_what_was_there(prepared, tmp_path, root, monkeypatch):
    """Files may not grow beyond 4 kB (RLIMIT_FSIZE): the state cannot be written, earlier results stay."""
    kept = tmp_path / "vae" / "model.safetensors"
    kept.parent.mkdir()
    kept.write_text("earlier result")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); from agave.cli import main; sys.argv[0] = 'agave'; main()"
    )
    arguments = [sys.executable, "-c", code, *pretrain(prepared, tmp_path, "vae")]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "not written, the disk is full" in done.stderr and "Traceback" not in done.stderr
    assert kept.read_text() == "earlier result" and [p.name for p in kept.parent.iterdir()] == [kept.name]


def test_interrupting_leaves_no_half_written_file(tmp_path):
    from agave.files import atomic_write

    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "before"
