"""Read YAML strictly: every value knows its line, and no value is read as something else than it looks like.

YAML 1.1 reads `010` as 8, `12:30` as 750, `yes` as true and `5e-3` as text, silently keeps the last of two equal keys, and other
readers of the same file (YAML 1.2) disagree. Here equal keys, keys that are not text, anchors and tags are errors, and a value that
looks like something else than it means is returned as `Ambiguous`, which is accepted neither as a number nor as a truth value.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from agave.errors import UserError

Keys = tuple[str | int, ...]
"""The place of a value: keys of mappings and positions in lists, from the outermost."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WITHOUT_TAG = {yaml.ScalarNode: "str", yaml.SequenceNode: "seq", yaml.MappingNode: "map"}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9_]+)([eE][-+][0-9]+)?|[-+]?\.(inf|nan)", re.IGNORECASE)
_NUMBER_OF_YAML_1_2 = re.compile(r"([-+]?)([0-9]+)(\.[0-9]*)?[eE]([-+]?)([0-9]+)")
_LONGEST_NUMBER = 40  # characters


class Document(dict[str, Any]):
    """The mapping that a YAML file holds.

    Attributes:
        lines: the line of each value, counted from 1, by its place.
    """

    lines: dict[Keys, int]


class Ambiguous(str):
    """A value without quotes that different readers of YAML read differently.

    Attributes:
        reading: how it is read, in words that follow "is" in a message.
    """

    reading: str

    def __new__(cls, text: str, reading: str = "") -> Ambiguous:
        """Make the text of the value with its reading."""
        made = super().__new__(cls, text)
        made.reading = reading
        return made


def read_yaml(path: str | Path, accepted: str) -> Document:
    """Read a YAML file that holds a mapping.

    Args:
        path: the file.
        accepted: what the file should be, for messages.

    Raises:
        UserError: the file cannot be read, is not YAML, holds no mapping, or has equal keys, keys that are no text, anchors or tags.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8-sig"), str(path), accepted)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); {accepted}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {accepted}") from None


def parse_yaml(text: str, name: str, accepted: str) -> Document:
    """Read the text of a YAML file that holds a mapping.

    Args:
        text: the text.
        name: name of the file, for messages.
        accepted: what the file should be, for messages.

    Raises:
        UserError: as `read_yaml`.
    """
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if not isinstance(root, yaml.MappingNode):
                raise UserError(f"{name}: holds no mapping; {accepted}")
            return _Walk(loader, name).document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise UserError(f"{name}: {where}not valid YAML: {_words(error.context, error.problem)}; {accepted}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {_words(str(error))}; {accepted}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply; {accepted}") from None


class _Walk:
    """The conversion of the nodes of one file into values."""

    def __init__(self, loader: Any, name: str) -> None:
        self.loader, self.name = loader, name
        self.lines: dict[Keys, int] = {}
        self.seen: set[int] = set()

    def document(self, root: yaml.MappingNode) -> Document:
        made = Document(self.mapping(root, ()))
        made.lines = self.lines
        return made

    def wrong(self, node: yaml.Node, problem: str) -> UserError:
        return UserError(f"{self.name}: line {node.start_mark.line + 1}: {problem}")

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        """Return the value of a node, and note its line."""
        if id(node) in self.seen:
            raise self.wrong(node, f"{dotted(keys)}: an anchor (&) and its alias (*); accepted: the value written out in both places")
        self.seen.add(id(node))
        self.lines.setdefault(keys, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, keys)
        self.check_tag(node, _WITHOUT_TAG[type(node)], keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*keys, position)) for position, item in enumerate(node.value)]
        return self.mapping(node, keys)

    def mapping(self, node: yaml.Node, keys: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.key(key_node, keys)
            place = (*keys, key)
            if key in found:
                raise self.wrong(key_node, f"{dotted(place)}: the key stands in line {self.lines[place]} already; accepted: each key once")
            self.lines[place] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, place)
        return found

    def key(self, node: yaml.Node, keys: Keys) -> str:
        key = self.scalar(node, keys) if isinstance(node, yaml.ScalarNode) else None
        if type(key) is str and key:
            return key
        shown = f"{node.value} is {described(key)}" if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        within = f"in {dotted(keys)} " if keys else ""
        raise self.wrong(node, f"a key {within}that is not text: {shown}; accepted: a name that begins with a letter")

    def scalar(self, node: yaml.ScalarNode, keys: Keys) -> Any:
        plain = not node.style  # None or '', by the parser
        resolved = self.loader.resolve(yaml.ScalarNode, node.value, (plain, not plain))
        kind = resolved.rpartition(":")[2]
        self.check_tag(node, kind, keys)
        return node.value if kind == "str" and not plain else _plain(node.value, kind)

    def check_tag(self, node: yaml.Node, kind: str, keys: Keys) -> None:
        if node.tag != f"tag:yaml.org,2002:{kind}":
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self.wrong(node, f"{dotted(keys)}: the tag {tag}; accepted: values without tags, and text in quotes")


def _plain(text: str, kind: str) -> Any:
    """Return the value of a scalar without quotes that YAML 1.1 reads as `kind`."""
    if kind == "null":
        return None
    if kind == "bool":
        return (
            text.lower() == "true" if text.lower() in ("true", "false") else Ambiguous(text, "a truth value in YAML 1.1, text in YAML 1.2")
        )
    if kind in ("int", "float"):
        if len(text) > _LONGEST_NUMBER:
            return Ambiguous(f"{text[:20]}...", f"a number of {len(text)} characters")
        if kind == "int" and _INTEGER.fullmatch(text):
            return int(text.replace("_", ""))
        if kind == "float" and _FLOAT.fullmatch(text):
            return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        if ":" in text:
            return Ambiguous(text, "a number to base 60 in YAML 1.1, text in YAML 1.2")
        base = {"0x": "hexadecimal", "0b": "binary"}.get(text.lstrip("+-")[:2].lower(), "octal")
        return Ambiguous(text, f"{base} in YAML 1.1, and not in YAML 1.2")
    if kind != "str":
        return Ambiguous(text, f"a {kind} in YAML 1.1")
    if number := _NUMBER_OF_YAML_1_2.fullmatch(text):
        sign, whole, fraction, exponent_sign, exponent = number.groups()
        fraction = fraction if fraction and len(fraction) > 1 else ".0"
        return Ambiguous(text, f"text in YAML 1.1 and a number in YAML 1.2, write {sign}{whole}{fraction}e{exponent_sign or '+'}{exponent}")
    if re.fullmatch(r"[-+]?0o[0-7_]+", text):
        return Ambiguous(text, "text in YAML 1.1 and octal in YAML 1.2")
    return text


def described(value: Any) -> str:
    """Describe a value in words that follow "is" in a message, for example "text", "a truth value", "a number", "a list"."""
    if isinstance(value, Ambiguous):
        return value.reading
    kinds: tuple[tuple[type, str], ...] = ((str, "text"), (bool, "a truth value"), (int, "a number"), (float, "a number"), (list, "a list"))
    return "empty" if value is None else next((name for kind, name in kinds if isinstance(value, kind)), "a block")


def quoted(value: Any) -> Any:
    """Return a value that must be text.

    Raises:
        ValueError: it is ambiguous without quotes.
    """
    if isinstance(value, Ambiguous):
        raise ValueError(f"{value} is {value.reading}; accepted: text, this one in quotes")
    return value


def _words(*parts: str | None) -> str:
    return ", ".join(" ".join(part.split()) for part in parts if part)


def dotted(keys: Keys) -> str:
    """Return a place in a file as text on one line, whatever its keys are."""
    return ".".join(str(key) if str(key).isprintable() else repr(key) for key in keys) or "the file"
