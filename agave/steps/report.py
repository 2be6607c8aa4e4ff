"""The step `report`: the pages of the report that show text, as html files that need nothing else.

Snakemake's report shows pictures and html; csv, json and Markdown it only offers for download.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from agave.config import Params
from agave.errors import UserError
from agave.files import atomic_write
from agave.results import CLAIMS_PAGE, TRAINING_RECORDS, Results
from agave.steps.records import MARKDOWN, record_paths

MANIFEST = "prepare/manifest.json"
TEXTS = {"table1": ("Table 1", "tables/table1.md"), "claims": ("The paper's claims", CLAIMS_PAGE), "compute": ("Compute", MARKDOWN)}
NAMES = (*TEXTS, "provenance")

VERDICT = re.compile(r"<td[^>]*><strong>(holds|does not hold|undecided|not testable at this scale)</strong></td>")

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 1.5em; }
table { border-collapse: collapse; }
th, td { border: 1px solid #ccc; padding: .3em .6em; text-align: left; vertical-align: top; }
th { background: #f0f0f0; position: sticky; top: 0; }
pre { margin: 0; white-space: pre-wrap; } code { overflow-wrap: anywhere; }
td[style*="right"], .line { white-space: nowrap; }
.verdict { font-weight: bold; white-space: nowrap; }
.holds { background: #c8e6c9; } .does-not-hold { background: #ffcdd2; } .undecided { background: #fff3c4; }
.not-testable-at-this-scale { background: #e8e8e8; white-space: normal; }
"""


def inputs(params: Params) -> list[str]:
    """The files that the pages show, relative to results/<preset>/."""
    return [*(path for _, path in TEXTS.values()), MANIFEST, *_record_paths(params)]


def _record_paths(params: Params) -> list[str]:
    """The run records, in the order in which data flow."""
    first, *others = (path for paths in record_paths(params).values() for path in paths)
    return [first, TRAINING_RECORDS, *others]


def write_pages(params: Params, preset: str, results: Path, output: Path) -> None:
    """Write table1.html, claims.html, compute.html and provenance.html.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.
        output: folder for the pages.

    Raises:
        UserError: a result or record is missing or damaged; the message names the command that makes it.
    """
    source = Results(params, preset, results)
    pages = {name: _of_markdown(title, _text(source, path)) for name, (title, path) in TEXTS.items()}
    pages["provenance"] = _provenance(source)
    for name, page in pages.items():
        with atomic_write(output / f"{name}.html") as temporary:
            temporary.write_text(page, encoding="utf-8")


def _text(source: Results, path: str) -> str:
    try:
        return (source.folder / path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise source.wrong(path, "missing") from None


def _of_markdown(title: str, text: str) -> str:
    """A page that shows a Markdown text; cells that hold a verdict are coloured."""
    body: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = VERDICT.sub(lambda found: f'<td class="verdict {found[1].replace(" ", "-")}">{found[1]}</td>', body)
    return _page(title, body if "<h1>" in body else f"<h1>{escape(title)}</h1>\n{body}")


def _page(title: str, body: str) -> str:
    """A whole html document; its policy lets it load nothing."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n'


def _provenance(source: Results) -> str:
    manifest, records = _json(source, MANIFEST, _text(source, MANIFEST)), list(_records(source))
    try:
        data = [
            [name, manifest["name"][name], str(manifest[name]["images"]), _code(manifest[name]["sha256"])] for name in ("train", "test")
        ]
        software = Counter(_software(record) for _, record in records)
        commits = Counter(_commit(record) for _, record in records)
        steps = [
            [
                escape(where),
                _code(shlex.join(record["command"])),
                _line(record["started"].replace("T", " ").replace("+00:00", " UTC")),
                _line(f"{record['wall_seconds']:.1f} s"),
                escape(_commit(record)[:10]),
                f"<details><summary>show</summary><pre>{_code(json.dumps(record, indent=1, ensure_ascii=False))}</pre></details>",
            ]
            for where, record in records
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source.folder}: a run record or {MANIFEST} lacks {error}; accepted: those that the steps write") from None
    parts = [
        f"<h1>Provenance, preset {escape(source.preset)}</h1>",
        "<p>Every step leaves a run record beside its result: command, options, SHA-256 of what it read and wrote, versions, git commit, "
        "time and memory. The last column shows it whole.</p>",
        "<h2>Data</h2>",
        _table(["", "data set", "images", "SHA-256"], data),
        f"<p>{escape(str(manifest.get('split', '')))}</p><p>Licence: {escape(str(manifest.get('licence', 'not stated')))}</p>",
        "<h2>Software</h2>",
        _table(["records", "versions"], [[str(number), escape(text)] for text, number in software.items()]),
        "<h2>Code</h2>",
        _table(["records", "git commit"], [[str(number), _code(text)] for text, number in commits.items()]),
        "<h2>Steps</h2>",
        _table(["result", "command", "started", "took", "commit", "record"], steps),
    ]
    return _page("Provenance", "\n".join(parts) + "\n")


def _records(source: Results) -> Iterable[tuple[str, dict[str, Any]]]:
    """Each run record after the place of the result that it describes, below results/<preset>/."""
    for path in _record_paths(source.params):
        text = _text(source, path)
        if path == TRAINING_RECORDS:
            for line in text.splitlines():
                record = _json(source, path, line)
                yield str(record.pop("folder", "")), record
        else:
            place = Path(path)
            yield str(place.parent if place.stem == "run" else place.with_suffix("")), _json(source, path, text)


def _json(source: Results, path: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise source.wrong(path, "is not JSON") from None
    if not isinstance(found, dict):
        raise source.wrong(path, "is no run record")
    return found


def _software(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = [f"{name} {version}" for name, version in record["packages"].items()]
    return ", ".join([f"{machine['system']} {machine['processor']}", f"Python {machine['python']}", *versions])


def _commit(record: dict[str, Any]) -> str:
    git = record["git"]
    return (git["commit"] or "not in git") + (" with changes" if git["dirty"] else "")


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _line(text: str) -> str:
    return f'<span class="line">{escape(text)}</span>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are html already."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    return "<table>\n<tr>" + "</tr>\n<tr>".join([head, *lines]) + "</tr>\n</table>"
