from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agave.errors import UserError
from agave.provenance import code_digest

MODEL = '"""The model."""\nfrom agave import layers\n\n\ndef loss(x):\n    """Nats."""\n    return layers.double(x)\n'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small package: training -> model -> layers; drawing -> layers, only when it draws."""
    folder = tmp_path / "agave"
    (folder / "drawing").mkdir(parents=True)
    texts = {
        "__init__.py": "",
        "config.py": "from agave import secret\n",
        "secret.py": "",
        "layers.py": "def double(x):\n    return 2 * x\n",
        "systems.py": "CLASSES = {'model': 'agave.model:loss', 'none': 'agave.absent:loss'}\n",
        "model.py": MODEL,
        "training.py": "import json\nfrom agave.config import Params\nfrom agave.model import loss\n",
        "drawing/__init__.py": "def draw():\n    from agave.drawing import lines\n",
        "drawing/lines.py": "from ..layers import double\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(code_digest, "PACKAGE", folder)
    monkeypatch.setattr(code_digest, "ENTRY_MODULES", {"joint": "agave.training", "figures": "agave.drawing", "sample": "agave.systems"})
    forget()
    yield folder
    forget()


def forget() -> None:
    for function in (code_digest._tree, code_digest._code, code_digest._imports):
        function.cache_clear()


def digests() -> dict[str, str]:
    forget()
    return {step: code_digest.digest(step) for step in code_digest.ENTRY_MODULES}


def test_modules_follow_every_form_of_import_and_stop_at_plumbing(package: Path) -> None:
    assert code_digest.modules("joint") == ("agave.layers", "agave.model", "agave.training")
    assert code_digest.modules("figures") == ("agave.drawing", "agave.drawing.lines", "agave.layers")
    assert code_digest.files("figures")[0] == Path("agave/drawing/__init__.py")
    assert code_digest.modules("sample") == ("agave.layers", "agave.model", "agave.systems")  # imported by the name in a string


@pytest.mark.parametrize(
    "text",
    [
        MODEL.replace("The model", "Another sentence"),
        MODEL.replace('    """Nats."""\n', ""),
        MODEL.replace("return", "# bits, not nats\n    return"),
        MODEL.replace("layers.double(x)", "(\n        layers.double(x)\n    )"),
    ],
    ids=["module docstring", "no docstring", "comment", "layout"],
)
def test_docstrings_comments_and_layout_do_not_count(package: Path, text: str) -> None:
    before = digests()
    (package / "model.py").write_text(text)
    assert text != MODEL
    assert digests() == before


@pytest.mark.parametrize(
    ("file", "text", "changed"),
    [
        ("model.py", MODEL.replace("double(x)", "double(x) + 1"), {"joint", "sample"}),
        ("model.py", MODEL.replace("double(x)", "double('Nats.')"), {"joint", "sample"}),
        ("drawing/lines.py", "from ..layers import double\n\nWIDTH = 2\n", {"figures"}),
        ("layers.py", "def double(x):\n    return x + x\n", {"joint", "figures", "sample"}),
        ("config.py", "RANGE = 3\n", set()),
    ],
)
def test_code_counts_for_the_steps_that_use_it_and_no_other(package: Path, file: str, text: str, changed: set[str]) -> None:
    before = digests()
    (package / file).write_text(text)
    after = digests()
    assert {step for step in before if before[step] != after[step]} == changed


def test_unknown_step_and_missing_module_are_named(package: Path) -> None:
    with pytest.raises(UserError, match="no step 'train'; accepted: joint, figures, sample"):
        code_digest.modules("train")
    (package / "training.py").unlink()
    forget()
    with pytest.raises(UserError, match=r"training\.py: missing"):
        code_digest.modules("joint")


def test_drawing_and_tables_are_no_part_of_the_steps_before() -> None:
    for step in ("prepare", "pretrain", "joint", "evaluate", "sample"):
        assert not [name for name in code_digest.modules(step) if name.startswith(("agave.figures", "agave.tables", "agave.results"))]
    for step in ("pretrain", "joint"):
        assert not {"agave.steps.evaluate", "agave.sampling"} & set(code_digest.modules(step))
        systems = {"agave.models.agave", "agave.models.vae_iaf", "agave.models.pixelcnn_pp_alone"}  # named in a string
        assert systems | {"agave.training.loop", "agave.likelihoods"} <= set(code_digest.modules(step))


LOADED = """
import importlib, json, os, pkgutil, sys
from agave.provenance import code_digest
import torch, pandas, matplotlib
for step, entry in code_digest.ENTRY_MODULES.items():
    if os.fork() == 0:  # a process each, so that one step does not see what another has imported
        module = importlib.import_module(entry)
        for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
            importlib.import_module(f"{entry}.{part.name}")
        print(json.dumps([step, [name for name in sys.modules if name.split(".")[0] == "agave"]]), flush=True)
        os._exit(0)
    os.wait()
"""


def test_no_import_escapes_the_digest() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = dict(json.loads(line) for line in done.stdout.splitlines())
    assert loaded.keys() == code_digest.ENTRY_MODULES.keys(), done.stderr
    for step, names in loaded.items():
        accounted = {*code_digest.modules(step), *code_digest.PLUMBING, "agave.provenance.code_digest", code_digest.UNUSED.get(step)}
        assert set(names) <= accounted, step
