"""The step `report`: write the pages of the report that show text as html files that need nothing else.

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
from agave.files import atomic_write
from agave.provenance.lineage import read_all, record_files
from agave.provenance.run_record import RunRecord
from agave.results import CLAIMS_PAGE, Results
from agave.steps.records import MARKDOWN

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
    """Return the files that the pages show, relative to results/<preset>/."""
    return [*(path for _, path in TEXTS.values()), MANIFEST, *record_files(params)]


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
    """Return a page that shows a Markdown text; cells that hold a verdict are coloured."""
    body: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = VERDICT.sub(lambda found: f'<td class="verdict {found[1].replace(" ", "-")}">{found[1]}</td>', body)
    return _page(title, body if "<h1>" in body else f"<h1>{escape(title)}</h1>\n{body}")


def _page(title: str, body: str) -> str:
    """Return a whole html document; its policy lets it load nothing."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n'


def _provenance(source: Results) -> str:
    manifest, records = _manifest(source), read_all(source)
    try:
        data = [
            [name, manifest["name"][name], str(manifest[name]["images"]), _code(manifest[name]["sha256"])] for name in ("train", "test")
        ]
    except (KeyError, TypeError) as error:
        raise source.wrong(MANIFEST, f"lacks {error}") from None
    software = Counter(map(_software, records))
    commits = Counter(map(_commit, records))
    steps = [
        [
            escape(record.folder if Path(record.path).stem == "run" else record.path.removesuffix(".json")),
            _code(shlex.join(record.command)),
            _line(f"{record.started:%Y-%m-%d %H:%M:%S %Z}"),
            _line(f"{record.wall_seconds:.1f} s"),
            escape(_commit(record)[:10]),
            f"<details><summary>show</summary><pre>{_code(json.dumps(record.as_json(), indent=1, ensure_ascii=False))}</pre></details>",
        ]
        for record in records
    ]
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


def _manifest(source: Results) -> dict[str, Any]:
    try:
        found = json.loads(_text(source, MANIFEST))
    except ValueError:
        raise source.wrong(MANIFEST, "is not JSON") from None
    if not isinstance(found, dict):
        raise source.wrong(MANIFEST, "is no manifest")
    return found


def _software(record: RunRecord) -> str:
    machine = record.machine
    versions = [f"{name} {version}" for name, version in record.packages.items()]
    return ", ".join([f"{machine.system} {machine.processor}", f"Python {machine.python}", *versions])


def _commit(record: RunRecord) -> str:
    return (record.git.commit or "not in git") + (" with changes" if record.git.dirty else "")


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _line(text: str) -> str:
    return f'<span class="line">{escape(text)}</span>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are html already."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    return "<table>\n<tr>" + "</tr>\n<tr>".join([head, *lines]) + "</tr>\n</table>"
