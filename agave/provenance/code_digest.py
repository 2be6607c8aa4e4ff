"""Find the modules that the results of each step depend on, and digest their code.

The digest is one of the parameters of every rule of the workflow, so Snakemake runs a step again when its code changes, and only
then. It is made from the syntax tree without docstrings, so neither comments nor the layout of the code change it, and it is the
same under every version of Python. C code, and the template, style and script of a page count as they are written.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from agave.errors import UserError
from agave.steps import STEPS

PACKAGE = Path(__file__).resolve().parents[1]

ENTRY_MODULES = {step: f"agave.steps.{step}" for step in STEPS}

# Left out, and followed no further, because no number or picture depends on them. What config.py does shows in the resolved
# values, which every rule carries as parameters; errors.py and progress.py word messages; files.py stores the bytes that it
# is given; run_record.py describes a run that is over; tensorboard.py shows numbers that are written anyway; agave.steps holds
# the names of the steps. checkpoints.py counts: training goes on from what it reads.
PLUMBING = frozenset(
    {
        "agave",
        "agave.cli_options",
        "agave.config",
        "agave.config_checks",
        "agave.config_networks",
        "agave.config_schema",
        "agave.config_types",
        "agave.errors",
        "agave.files",
        "agave.presets",
        "agave.provenance",
        "agave.provenance.git",
        "agave.provenance.run_record",
        "agave.provenance.surroundings",
        "agave.runtime.progress",
        "agave.steps",
        "agave.training.tensorboard",
        "agave.yaml_files",
    }
)

# A model can draw images, so its module imports the sampler; trainings and evaluations never draw. The steps that read small files alone
# know the systems by name only: of agave.models they use the registry, whose names stand in the grid, a parameter.
UNUSED = dict.fromkeys(("pretrain", "joint", "evaluate"), "agave.sampling") | dict.fromkeys(
    ("trainings", "tables", "figures", "claims", "records", "page", "report"), "agave.models"
)


def modules(step: str, system: str | None = None) -> tuple[str, ...]:
    """Return the modules of agave that the results of a step depend on, sorted by name.

    Args:
        step: a step of the workflow.
        system: leave out the models that only other systems than this one use; None: those of all systems count.

    Raises:
        UserError: there is no such step, or a module of it is missing.
    """
    if step not in ENTRY_MODULES:
        raise UserError(f"there is no step '{step}'; accepted: {', '.join(ENTRY_MODULES)}")
    found: set[str] = set()
    others = _other_systems(system)
    waiting = [ENTRY_MODULES[step]]
    while waiting:
        module = waiting.pop()
        if module not in found and module not in PLUMBING and module != UNUSED.get(step):
            found.add(module)
            imported = _imports(module)
            waiting.extend(name for name in imported if module != "agave.models" or name not in others)
    return tuple(sorted(found))


def _other_systems(system: str | None) -> set[str]:
    """Return the modules of all systems but this one; none if no system is named."""
    if system is None:
        return set()
    from agave.models import REGISTRY  # here: steps that know no model do not load it

    return {one.place.partition(":")[0] for name, one in REGISTRY.items() if name != system}


def files(step: str, system: str | None = None) -> tuple[Path, ...]:
    """Return the files of `modules`, relative to the folder that holds the package.

    Raises:
        UserError: as `modules`.
    """
    paths = [_file(module) for module in modules(step, system)]
    return tuple(path.relative_to(PACKAGE.parent) for path in sorted([*paths, *(other for path in paths for other in _companions(path))]))


def digest(step: str, system: str | None = None) -> str:
    """Return the SHA-256, hexadecimal, of the code that the results of a step depend on.

    Args:
        step: a step of the workflow.
        system: as in `modules`.

    Raises:
        UserError: as `modules`.
    """
    return hashlib.sha256("\n".join(f"{module} {_code(module)}" for module in modules(step, system)).encode()).hexdigest()


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_bytes())


@cache
def _code(module: str) -> str:
    return _dump(_tree(module)) + "".join(path.read_text(encoding="utf-8") for path in _companions(_file(module)))


def _companions(path: Path) -> list[Path]:
    """Return the files of other languages that belong to a module: beside it, under its name."""
    return [other for ending in (".c", ".css", ".html", ".js") if (other := path.with_suffix(ending)).exists()]


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
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+(\.\w+)+(:\w+)?", node.value):
            names.add(node.value.partition(":")[0])  # "package.module:Name", as importlib is given it
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
    """Return a syntax tree as text, without bare strings and without empty fields, which differ between versions of Python."""
    if isinstance(node, list):
        return "[" + ", ".join(_dump(item) for item in node if not _is_bare_string(item)) + "]"
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(f'{name}={_dump(value)}' for name, value in fields)})"
    return repr(node)


def _is_bare_string(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
