"""Files of presets: one preset is complete, the others give only what differs from it. Pure functions of values read from YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from agave.config_schema import missing, problems, refused_value
from agave.errors import UserError
from agave.yaml_files import Document, Keys, dotted, read_yaml

COMPLETE = "paper"
OPTIONS = ("preset", "images", "tflops")
"""Names that are options of the workflow, so that no preset can have them."""

ACCEPTED = "accepted: a YAML file of presets"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # a folder, a word of a shell command, and text to every reader of YAML

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(UserError):
    """A parameter that is missing, misspelt or out of range. The message has one line per parameter: its name and what is accepted."""


def read_presets(path: str | Path) -> Document:
    """Read a file of presets without resolving it.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds something else than presets.
    """
    try:
        document = read_yaml(path, ACCEPTED)
    except UserError as error:
        raise ConfigError(str(error)) from None
    check_names(document, str(path))
    return document


def check_names(document: Mapping[str, Any], name: str) -> None:
    """Refuse a file of presets whose outermost keys are not `preset` and names of presets.

    Args:
        document: the whole file.
        name: name of the file, for messages.

    Raises:
        ConfigError: one line for each wrong key.
    """
    wrong = []
    for key, value in document.items():
        where = f"{name}: {_line(document, (key,))}{dotted((key,))}: "
        if key == "preset":
            if not isinstance(value, str) or not value:
                wrong.append(f"{where}{refused_value(value)}; accepted: the name of a preset")
        elif key in OPTIONS:
            wrong.append(f"{where}an option of the command line has this name; accepted: another name for a preset")
        elif not NAME.fullmatch(key) or yaml.safe_load(key) != key:
            wrong.append(f"{where}no name for a preset; accepted: letters, digits, _ and - after a first letter, and no truth value")
        elif not isinstance(value, Mapping):
            wrong.append(f"{where}{refused_value(value)}; accepted: a block of parameters, {{}} for none")
    if "preset" not in document:
        wrong.append(f"{name}: preset: missing; accepted: the name of the preset that runs")
    if wrong:
        raise ConfigError("\n".join(wrong))


def resolve_preset(model: type[Model], document: Mapping[str, Any], preset: str | None, name: str) -> Model:
    """Validate all presets of a file and return one.

    Args:
        model: model of a complete preset.
        document: the whole file.
        preset: which preset; None takes the one that the file names.
        name: name of the file, for messages.

    Raises:
        ConfigError: a preset is missing, or a key or value is not accepted; one line for each.
    """
    check_names(document, name)
    names = [key for key in document if key not in OPTIONS]
    if COMPLETE not in names:
        raise ConfigError(f"{name}: the preset '{COMPLETE}', on which the others build, is missing")
    preset = str(document["preset"] if preset is None else preset)
    if preset not in names:
        raise ConfigError(f"{name}: there is no preset '{preset}'; accepted: {', '.join(names)}")
    absent = [".".join(map(str, keys)) for keys in missing(model, document[COMPLETE])]
    wrong = [f"{name}: {COMPLETE}.{key}: missing; the preset '{COMPLETE}' must be complete" for key in absent]
    found: dict[str, Model] = {}
    for one in [COMPLETE, *(other for other in names if other != COMPLETE)]:
        try:
            found[one] = model.model_validate(merge(document[COMPLETE], document[one]))
        except ValidationError as error:
            wrong += _messages(error, model, document, one, name)
        if wrong and one == COMPLETE:
            break  # the others build on it
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))
    return found[preset]


def _messages(error: ValidationError, model: type[BaseModel], document: Mapping[str, Any], preset: str, name: str) -> Iterator[str]:
    for keys, message in problems(error, model):
        named = tuple(message.split(" ")[0].rstrip(":").split("."))  # of a rule about several parameters, the first
        full = keys if message.startswith("unknown key") or not _holds(document[preset], (*keys, *named)) else (*keys, *named)
        source = preset if _holds(document[preset], keys) else COMPLETE
        yield f"{name}: {_line(document, (source, *full))}{dotted((source, *keys))}: {message}"


def _line(document: Mapping[str, Any], keys: Keys) -> str:
    """Return the line of a value, or of the nearest thing around it, as text before a message."""
    lines = getattr(document, "lines", {})
    found = next((lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in lines), None)
    return "" if found is None else f"line {found}: "


def _holds(block: Any, keys: Keys) -> bool:
    """Return whether a preset itself sets the value at these keys, or a block around it."""
    for key in keys:
        if not isinstance(block, Mapping):
            return True
        if key not in block:
            return False
        block = block[key]
    return True


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `difference` over `base`, block by block; a list or value is replaced as a whole."""
    merged = dict(base)
    for key, value in difference.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def flatten(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all leaves of a nested mapping as (dotted name, value)."""
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def origins(document: Mapping[str, Any], preset: str) -> dict[str, str]:
    """Return which preset sets each value: {dotted name: preset}."""
    names = {key: COMPLETE for key, _ in flatten(document[COMPLETE])}
    return names | {key: preset for key, _ in flatten(document[preset])}
