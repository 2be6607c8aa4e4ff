"""Texts about parameters, made from the descriptions in config.py.

These are the comments of params.yaml, its JSON schema for Snakemake and editors, the accepted values in words, and error messages.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from agave.yaml_files import Ambiguous, Keys, described

LARGEST = 1_000_000_000
"""The largest count that any parameter accepts: so large that it is named only in the message about a larger one."""

COLUMN, WIDTH, FIRST_INDENT = 34, 140, "  "  # of params.yaml


def parameter(default: Any, description: str, *, paper: str | None = None, open: str | None = None, **limits: Any) -> Any:
    """Describe one parameter, once for the schema, params.yaml and the documentation.

    Args:
        default: its value in the preset `paper`; ... for none.
        description: a full sentence that says what it is, with its unit.
        paper: where the paper states the value, for example "4.1".
        open: why the value was chosen, where the paper leaves it open or we depart from it.
        **limits: limits of pydantic's `Field`: ge, gt, le, lt, min_length, max_length.
    """
    origin: dict[str, Any] = {key: text for key, text in (("paper", paper), ("open", open)) if text is not None}
    return Field(default, description=description, json_schema_extra=origin or None, **limits)


def block(kind: type[BaseModel], description: str, *, paper: str | None = None) -> Any:
    """Describe a block of parameters, as `parameter` does a single one; its values are those of `kind`."""
    return Field(default_factory=kind, description=description, json_schema_extra=None if paper is None else {"paper": paper})


@cache
def _definitions(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(mode="serialization")  # in which every key is required
    definitions: dict[str, Any] = schema.pop("$defs")
    return definitions | {"": schema}


def schema_of(model: type[BaseModel], keys: Keys) -> dict[str, Any] | None:
    """Return the JSON schema of the value at these keys, references resolved; None where the model has no such key."""
    definitions = _definitions(model)
    found: Any = definitions[""]
    for key in keys:
        inner = found.get("items") if isinstance(key, int) else found.get("properties", {}).get(key)
        if not isinstance(inner, dict):
            return None
        found = definitions[inner["$ref"].rpartition("/")[2]] | inner if "$ref" in inner else inner
    return dict(found)


def accepted(model: type[BaseModel], schema: Mapping[str, Any], largest: bool = False) -> str:
    """Say in words what a JSON schema of a parameter accepts, for example "an integer of at least 1 or null".

    Args:
        model: model that the schema belongs to.
        schema: result of `schema_of`.
        largest: whether to name the limit of counts that is too large to matter.
    """
    if "anyOf" in schema:
        return " or ".join(accepted(model, option, largest) for option in schema["anyOf"])
    if "enum" in schema:
        *first, last = map(str, schema["enum"])
        return f"{', '.join(first)} or {last}"
    kind = schema.get("type")
    if kind == "array":
        item = schema["items"]
        if "$ref" in item:
            fields = _definitions(model)[item["$ref"].rpartition("/")[2]]["properties"]
            inner = "{" + ", ".join(f"{name}: {accepted(model, field, largest)}" for name, field in fields.items()) + "}"
        else:
            inner = accepted(model, item, largest)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        return f"a list of {least} to {most}, each {inner}"
    names = {
        "null": "null",
        "boolean": "true or false",
        "string": "text of at least 1 character",
        "integer": "an integer",
        "number": "a number",
    }
    if kind not in ("integer", "number"):
        return names.get(str(kind), "a block of parameters")
    low, high = schema.get("minimum"), schema.get("maximum")
    high = None if high is not None and high >= LARGEST and not largest else high
    if low is not None and high is not None:
        return f"{names[kind]} from {_number(low)} to {_number(high)}"
    sides = [
        (low, "of at least"),
        (schema.get("exclusiveMinimum"), "above"),
        (high, "of at most"),
        (schema.get("exclusiveMaximum"), "below"),
    ]
    return " ".join([names[kind], " and ".join(f"{word} {_number(value)}" for value, word in sides if value is not None)]).strip()


def _number(value: int | float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def problems(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Keys, str]]:
    """Yield the place and the message of everything that pydantic found wrong."""
    for detail in error.errors(include_url=False):
        keys, value = detail["loc"], detail["input"]
        schema = schema_of(model, keys)
        if detail["type"] == "extra_forbidden":
            parent = schema_of(model, keys[:-1])
            yield keys, f"unknown key; accepted: {', '.join((parent or {}).get('properties', {}))}"
        elif detail["type"] == "value_error":
            yield keys, detail["msg"].removeprefix("Value error, ")
        else:
            words = accepted(model, schema or {}, isinstance(value, int) and value > LARGEST)
            named = refused_value(value)
            if detail["type"] in ("too_short", "too_long") and isinstance(value, list):
                named = f"{len(value)} values"
            elif detail["type"] == "literal_error" and type(value) is str:
                named = repr(value)
            yield keys, f"{'missing' if detail['type'] == 'missing' else named}; accepted: {words}"


def refused_value(value: Any) -> str:
    """Return a value that is not accepted as text, with its type where the text does not show it."""
    if isinstance(value, Ambiguous):
        return f"{value} is {described(value)}"
    if isinstance(value, (Mapping, list)) or value is None:
        return f"is {described(value)}"
    if isinstance(value, bool):
        return f"{str(value).lower()} is {described(value)}"
    text = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:76]}..."
    return f"{text} is text" if isinstance(value, str) else text


def missing(model: type[BaseModel], values: Mapping[str, Any], keys: Keys = ()) -> Iterator[Keys]:
    """Yield the place of every parameter that a complete preset lacks."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if name not in values:
            yield (*keys, name)
        elif isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(values[name], Mapping):
            yield from missing(inner, values[name], (*keys, name))


def json_schema(model: type[BaseModel], complete: str) -> dict[str, Any]:
    """Return the JSON schema of params.yaml, used by Snakemake: one preset complete, every other one a part of it.

    Args:
        model: model of a complete preset.
        complete: its name.
    """
    definitions = dict(_definitions(model))
    full = definitions.pop("")

    def partial(schema: Any) -> Any:
        if isinstance(schema, dict):
            part = {key: partial(value) for key, value in schema.items() if key not in ("required", "default")}
            if isinstance(part.get("$ref"), str):
                part["$ref"] = part["$ref"].replace("#/$defs/", "#/$defs/Partial")
            return part
        return [partial(item) for item in schema] if isinstance(schema, list) else schema

    whole_items = {"ResolutionCell"}  # items of lists are replaced whole, so they stay complete
    partials = {f"Partial{key}": definitions[key] if key in whole_items else partial(value) for key, value in definitions.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml",
        "description": "Generated from agave/config.py by `agave config --schema`.",
        "type": "object",
        "properties": {
            "preset": {"type": "string", "description": "The preset that runs."},
            "images": {"type": ["string", "null"], "description": "Given on the command line: path of the user's own images."},
            "tflops": {
                "type": ["number", "null"],
                "exclusiveMinimum": 0,
                "description": "Given on the command line: sustained TFLOP/s of a device, for the time that jobs ask for.",
            },
            complete: full,
        },
        "required": ["preset", complete],
        "additionalProperties": partial({k: v for k, v in full.items() if k != "title"}),
        "$defs": definitions | partials,
    }


def schema_text(model: type[BaseModel], complete: str) -> str:
    """Return `json_schema` as the text of a file."""
    return json.dumps(json_schema(model, complete), indent=2) + "\n"


def template(values: BaseModel, name: str, description: str) -> str:
    """Return a complete preset as it stands in params.yaml, each key with its description as comment.

    Args:
        values: values of the preset.
        name: name of the preset.
        description: description of the preset, a full sentence.
    """
    return "\n".join([*_commented(f"{name}:", [description]), *_lines(values, FIRST_INDENT)]) + "\n"


def _lines(values: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(values).model_fields.items():
        value = getattr(values, name)
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        comments = [(field.description or "") + (f" [paper, {extra['paper']}]" if "paper" in extra else "")]
        comments += [f"PAPER: {extra['open']}"] if "open" in extra else []
        if isinstance(value, BaseModel):
            if indent == FIRST_INDENT and name != next(iter(type(values).model_fields)):
                yield ""
            yield from _commented(f"{indent}{name}:", comments)
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            yield from _commented(f"{indent}{name}:", comments)
            yield from (f"{indent}  - {plain(item)}" for item in value)
        else:
            yield from _commented(f"{indent}{name}: {plain(value)}", comments)


def _commented(text: str, comments: list[str]) -> Iterator[str]:
    """Return a key with its comments to the right, on as many lines as they need."""
    column = max(COLUMN, len(text) + 2)
    pieces = [piece for comment in comments for piece in textwrap.wrap(comment, WIDTH - COLUMN - 2, break_long_words=False)]
    yield f"{text:<{column}}# {pieces[0]}".rstrip()
    yield from (f"{'':<{COLUMN}}# {piece}" for piece in pieces[1:])


def plain(value: Any) -> str:
    """Return a value as it is written in params.yaml: readable, and read alike by every YAML parser."""
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{key}: {plain(entry)}" for key, entry in value) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, float):
        small_or_large = 0 < abs(value) < 1e-4 or abs(value) >= 1e6  # with a point, or YAML reads 1e-05 as text
        return re.sub(r"e([+-])0", r"e\1", f"{value:.1e}") if small_or_large else f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
