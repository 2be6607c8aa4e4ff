"""records/SHA256SUMS: the SHA-256 of every small result, in the format of `sha256sum`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from agave.files import atomic_write, sha256
from agave.results import Results

CHECKSUMS = "records/SHA256SUMS"


def write_checksums(results: Results, paths: Iterable[str]) -> None:
    """Write records/SHA256SUMS.

    Args:
        results: results of the preset.
        paths: files to list, relative to results/<preset>/, in this order.

    Raises:
        UserError: one of them is missing; the message names the command that makes it.
    """
    lines = []
    for path in paths:
        if not (results.folder / path).is_file():
            raise results.wrong(path, "missing")
        lines.append(f"{sha256(results.folder / path)}  {path}\n")
    with atomic_write(results.folder / CHECKSUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read_checksums(results: Results) -> dict[str, str]:
    """Read records/SHA256SUMS as {path relative to results/<preset>/: SHA-256}.

    Raises:
        UserError: it is missing, or a line of it is not a checksum; the message names the command that makes it.
    """
    try:
        lines = (results.folder / CHECKSUMS).read_bytes().decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise results.wrong(CHECKSUMS, "missing") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        if match is None:
            raise results.wrong(CHECKSUMS, f"line {number} is not a checksum")
        found[match[2]] = match[1]
    return found


def changed(folder: Path, recorded: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Compare files with their recorded SHA-256.

    Args:
        folder: that the paths are relative to.
        recorded: {path: SHA-256}.

    Yields:
        (path, "missing" or how its SHA-256 differs), for each file that is not as recorded.
    """
    for path, digest in recorded.items():
        if not (folder / path).is_file():
            yield path, "missing"
        elif (found := sha256(folder / path)) != digest:
            yield path, f"changed; its SHA-256 is {found[:12]}..., recorded is {digest[:12]}..."
