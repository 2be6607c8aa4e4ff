"""The house rules that a program can check: sizes, names, docstrings, imports."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "agave").rglob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 400, 60
ONE_INTERFACE = {"run", "inputs", "outputs", "options", "draw", "load", "elu", "gate"}
"""Of the steps; of the kinds of figures; of files and models that can be loaded; of torch's own and the compiled nonlinearities."""
NO_VERBS = {"what", "which", "where", "how", "whether", "of", "the", "a", "an", "when", "that", "this", "all", "every", "each", "those"}


def definitions(module: Path) -> list[ast.FunctionDef | ast.ClassDef]:
    return [node for node in ast.parse(module.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def imports(module: Path, known: set[str]) -> set[str]:
    """The modules of the package that a module imports when it is imported, not inside functions."""
    found = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known if names <= known else (names & known) | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_module_is_longer_than_a_newcomer_reads():
    assert {str(path): n for path in MODULES if (n := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_MODULE} == {}


def test_no_function_is_longer_than_a_screen():
    long = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION:
                long[f"{path.name}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert long == {}


def test_a_public_name_is_defined_in_one_module():
    places = defaultdict(list)
    for path in MODULES:
        for node in definitions(path):
            if not node.name.startswith("_") and path.name not in (
                "cli.py",
                "cli_evaluate.py",
                "cli_review.py",
            ):  # a command is called as its step
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(set(found)) > 1 and name not in ONE_INTERFACE} == {}


def test_docstrings_begin_with_a_verb():
    weak = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                words = (ast.get_docstring(node) or "").split()
                if words and words[0].rstrip(".,:").lower() in NO_VERBS:
                    weak.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {' '.join(words[:6])}")
    assert weak == []


def test_imports_go_one_way():
    """No module imports itself by way of others."""
    known = {name_of(path) for path in MODULES}
    graph = {name_of(path): imports(path, known) for path in MODULES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree)
