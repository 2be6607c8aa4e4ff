"""Which modules the results of each step depend on, and a digest of their code.

The digest stands among the parameters of every rule of the workflow: when the code of a step changes, Snakemake
runs that step again, and only then. It is taken from the syntax tree without docstrings, so neither a comment
nor the layout of the code changes it, and it is the same under every version of Python. C code counts as it is written.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from agave.errors import UserError

ENTRY_MODULES = {
    "prepare": "agave.data.sources",
    "pretrain": "agave.steps.pretrain",
    "joint": "agave.steps.joint",
    "trainings": "agave.steps.trainings",
    "evaluate": "agave.steps.evaluate",
    "sample": "agave.steps.sample",
    "tables": "agave.tables",
    "figures": "agave.steps.figures",
    "claims": "agave.claims",
    "records": "agave.steps.records",
    "report": "agave.steps.report",
}

# Left out, and followed no further, because no number or picture depends on them. What config.py does shows in the resolved
# values, which every rule carries as parameters; errors.py and progress.py word messages; files.py stores the bytes that it
# is given; provenance.py describes a run that is over; watch.py shows numbers that are written anyway. checkpoints.py counts:
# training goes on from what it reads.
PLUMBING = frozenset(
    {
        "agave",
        "agave.config",
        "agave.errors",
        "agave.files",
        "agave.provenance",
        "agave.provenance.run_record",
        "agave.runtime.progress",
        "agave.training.tensorboard",
    }
)

PACKAGE = Path(__file__).resolve().parents[1]


def modules(step: str) -> tuple[str, ...]:
    """The modules of agave that the results of a step depend on, sorted by name.

    Raises:
        UserError: there is no such step, or a module of it is missing.
    """
    if step not in ENTRY_MODULES:
        raise UserError(f"there is no step '{step}'; accepted: {', '.join(ENTRY_MODULES)}")
    found: set[str] = set()
    waiting = [ENTRY_MODULES[step]]
    while waiting:
        module = waiting.pop()
        if module not in found and module not in PLUMBING:
            found.add(module)
            waiting.extend(_imports(module))
    return tuple(sorted(found))


def files(step: str) -> tuple[Path, ...]:
    """The files of `modules(step)`, relative to the folder that holds the package.

    Raises:
        UserError: as `modules`.
    """
    paths = [_file(module) for module in modules(step)]
    return tuple(path.relative_to(PACKAGE.parent) for path in sorted([*paths, *filter(Path.exists, map(_companion, paths))]))


def digest(step: str) -> str:
    """SHA-256, hexadecimal, of the code that the results of a step depend on.

    Raises:
        UserError: as `modules`.
    """
    return hashlib.sha256("\n".join(f"{module} {_code(module)}" for module in modules(step)).encode()).hexdigest()


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_bytes())


@cache
def _code(module: str) -> str:
    companion = _companion(_file(module))
    return _dump(_tree(module)) + (companion.read_text() if companion.exists() else "")


def _companion(path: Path) -> Path:
    """The C code that a module compiles: the file of its name beside it, if there is one."""
    return path.with_suffix(".c")


@cache
def _imports(module: str) -> tuple[str, ...]:
    package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(_tree(module)):  # the imports inside functions as well
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}  # the latter: modules, or names in a module
    own = {parent for name in names if name.split(".")[0] == PACKAGE.name for parent in _with_parents(name)}
    return tuple(sorted(name for name in own if any(path.is_file() for path in _candidates(name))))


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        yield ".".join(parts[:length])


def _file(module: str) -> Path:
    for path in _candidates(module):
        if path.is_file():
            return path
    raise UserError(f"{_candidates(module)[0]}: missing; the module {module} is part of the workflow")


def _candidates(module: str) -> tuple[Path, Path]:
    folder = PACKAGE.parent.joinpath(*module.split("."))
    return folder.with_suffix(".py"), folder / "__init__.py"


def _dump(node: object) -> str:
    """A syntax tree as text. Unlike ast.dump without empty fields, which differ between versions of Python, and bare strings."""
    if isinstance(node, list):
        return "[" + ", ".join(_dump(item) for item in node if not _is_bare_string(item)) + "]"
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(f'{name}={_dump(value)}' for name, value in fields)})"
    return repr(node)


def _is_bare_string(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
