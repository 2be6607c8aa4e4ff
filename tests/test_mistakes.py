"""Generated mistakes: whatever is wrong in params.yaml or on the command line, it is told in a line each and never by a traceback."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agave import config, presets
from agave.cli import main
from agave.grid import Cell
from agave.planning import plan
from agave.presets import ConfigError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
DOCUMENT = yaml.safe_load(TEXT)
LEAVES = [(preset, *key.split(".")) for preset in DOCUMENT if preset != "preset" for key, _ in presets.flatten(DOCUMENT[preset])]
BLOCKS = sorted({leaf[:length] for leaf in LEAVES for length in range(1, len(leaf))})
CELL = "kl_weight~2-levels~256-resolution~16"
QUICK = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))

odd_numbers = st.sampled_from([-1, 0, 1, 2, 3, 7, 10, 33, 255, 257, 10**6, 10**9, 10**12, 2**63, 2**64, 10**400, -0.0, 0.5, 1e-300, 1e300])
odd_numbers |= st.integers() | st.floats()
odd_values = st.one_of(
    odd_numbers,
    st.sampled_from([None, True, False, "", "yes", "5e-3", "010", "cuda", "\0", "ä", [], {}, [[]], {"a": 1}]),
    st.lists(odd_numbers | st.none() | st.booleans() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["resolution", "kl_weight", "steps", "x"]), odd_numbers, max_size=2).map(lambda entry: [entry]),
    st.text(max_size=5),
)
ODD_WORDS = r"""010 0x1F 0o17 0b1 12:30 1:2.5 yes no on off y n true null ~ .nan .inf -.inf 5e-3 1e5 1.5e3 1_0 +1 - : ? , & * &a *a
    !!int !!str !x << = | > { } [ ] {a:1} [1,2] ' " # % @ ` --- ... 2026-01-01 !!python/object:os.system 99999999999999999999999 1e999"""
odd_words = st.sampled_from(
    [*re.split(r"\s+", ODD_WORDS), "", " ", "\t", "\n", "\n  ", "\ufeff", "\0", "\x85", "{a: 1}", "[1, 2]", ": ", " #"]
)


RIGHT = [config.resolve(DOCUMENT, preset) for preset in DOCUMENT if preset != "preset"]


def refused_or_usable(given: str | dict[str, Any], folder: Path) -> None:
    """Resolve what is given, text or values: what is wrong is told in lines, what is accepted can be planned and sized."""
    path = folder / "params.yaml"
    try:
        if isinstance(given, str):
            path.write_text(given, encoding="utf-8", errors="surrogatepass")
            params = config.load(path)
        else:
            params = config.resolve(given, None, str(path))
    except ConfigError as error:
        lines = str(error).split("\n")
        assert all(line.startswith(f"{path}: ") and len(line) < 1500 for line in lines), lines
        return
    if params not in RIGHT:
        for rule in plan.TRAININGS + plan.EVALUATIONS:
            job = plan.job(params, rule, Cell(resolution=params.prepare.image_size))
            assert plan.mem_mb(job) > 0 and plan.minutes(job, plan.stated(params)) > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mistakes")


@settings(QUICK, max_examples=700)
@given(st.lists(st.tuples(st.sampled_from(LEAVES + BLOCKS), odd_values), min_size=1, max_size=3))
def test_values(folder: Path, changes: list[tuple[tuple[str, ...], Any]]) -> None:
    document = copy.deepcopy(DOCUMENT)
    for (*path, last), value in changes:
        block = document
        for key in path:
            block = block[key] if isinstance(block, dict) and isinstance(block.get(key), dict) else {}
        block[last] = value
    refused_or_usable(document | {"preset": changes[0][0][0]}, folder)


odd_keys = st.text(max_size=8) | st.sampled_from([*presets.OPTIONS, "2024", "on", "null", "paper", "step", "a b", "x/y", "-a"])


@settings(QUICK, max_examples=200)
@given(st.sampled_from([(), *BLOCKS]), odd_keys, odd_values)
def test_keys(folder: Path, path: tuple[str, ...], key: str, value: Any) -> None:
    document = copy.deepcopy(DOCUMENT)
    block = document
    for name in path:
        block = block[name]
    block[key] = value
    refused_or_usable(yaml.safe_dump(document, allow_unicode=True), folder)


@settings(QUICK, max_examples=600)
@given(st.lists(st.tuples(st.integers(0, len(TEXT)), st.integers(0, 12), odd_words | st.text(max_size=4)), min_size=1, max_size=3))
def test_texts(folder: Path, edits: list[tuple[int, int, str]]) -> None:
    text = TEXT
    for place, length, inserted in edits:
        text = text[:place] + inserted + text[place + length :]
    refused_or_usable(text, folder)


@settings(QUICK, max_examples=300)
@given(st.sampled_from([match.span(1) for match in re.finditer(r": +([^\s#{\[][^\s#,}]*)", TEXT)]), odd_words)
def test_scalars(folder: Path, span: tuple[int, int], word: str) -> None:
    refused_or_usable(TEXT[: span[0]] + word + TEXT[span[1] :], folder)


def commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]
    return found


COMMANDS = commands(main)
FILES = ["absent", "", "folder", "empty", "bytes", "text.yaml", "list.yaml", "folder/absent/x", "text.yaml/x", "a" * 300, "ä"]
WORDS = [
    CELL,
    "vae",
    "pixelcnn_pp",
    "kl_weight~2",
    "kl_weight~9999999-levels~256-resolution~16",
    "4",
    "training",
    "prepare",
    "tiny",
    "paper",
]
WORDS += [f"kl_weight~{'9' * 400}-levels~2-resolution~16", f"kl_weight~1-levels~{'9' * 5000}-resolution~16"]
WORDS += ["1-of-2", "0-of-0", "9-of-1", "²-of-²", "x", ""]
NUMBERS = ["0", "1", "-1", "nan", "inf", "1e999", "9" * 30, "9" * 5000, "x", "", "0x1", "1_0", "²"]


@pytest.fixture(scope="module")
def odd_files(folder: Path) -> Path:
    """A working directory with a right params.yaml and claims.yaml, and with what is neither."""
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "bytes").write_bytes(bytes(range(256)))
    (folder / "text.yaml").write_text("a: 1\n")
    (folder / "list.yaml").write_text("- 1\n- [2]\n")
    for name in ("params.yaml", "claims.yaml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with options that exist and values that need not fit; what would train or evaluate only shows its options."""
    path, command = draw(st.sampled_from(COMMANDS))
    line, works = list(path), path[0] in ("pretrain", "joint", "evaluate", "sample")
    for parameter in command.params:
        kind, often = type(parameter.type).__name__, draw(st.booleans())
        values = FILES if kind == "Path" else NUMBERS if "Int" in kind or "Float" in kind else WORDS
        if parameter.param_type_name == "argument":
            values = [*getattr(parameter.type, "choices", []), CELL, "training"] if often else values
            line.append(draw(st.sampled_from(values)))
        elif parameter.name in ("params_file", "preset"):
            usual = {"params_file": "params.yaml", "preset": "tiny"}[parameter.name]
            line += [parameter.opts[0], usual if often else draw(st.sampled_from([usual, *values]))]
        elif parameter.name == "dry_run":
            line += ["--dry-run"] if works or often else []
        elif parameter.is_flag:
            line += [parameter.opts[0]] if often and parameter.name != "calibrate" else []
        elif parameter.required or draw(st.integers(0, 3)) == 0:
            line += [parameter.opts[0], draw(st.sampled_from(values))]
    if draw(st.integers(0, 9)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(st.sampled_from(["--absent", "-x", "--", "extra", "--seed", "=", ""])))
    return line


def told(result: Result) -> None:
    """Fail unless a command ended well or told a mistake."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(result.output) from result.exception
    assert "Traceback" not in result.output
    if result.exit_code:
        assert re.search(r"^error: |^Error: |^Usage: |FAILED", result.output, re.MULTILINE), result.output


@settings(QUICK, max_examples=400)
@given(command_lines())
def test_command_lines(odd_files: Path, line: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(odd_files)
        told(CliRunner().invoke(main, line))
