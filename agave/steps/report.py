"""The step `report`: write the text pages of the report as self-contained html files.

Snakemake's report shows pictures and html, while it offers csv, json and Markdown only for download.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment
from markdown_it import MarkdownIt
from markupsafe import Markup

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

# A whole document, whose policy does not let it load anything.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
{% block body %}
{{ body }}
{% endblock %}
</body>
</html>
"""

PROVENANCE = """{% extends "page" %}
{% macro table(header, rows) %}
<table>
<tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endmacro %}
{% block body %}
<h1>Provenance, preset {{ preset }}</h1>
<p>Every step leaves a run record beside its result: command, options, SHA-256 of its inputs and outputs, versions, git commit, time and
memory. The last column shows the whole record.</p>
<h2>Data</h2>
{{ table(("", "data set", "images", "SHA-256"), data) }}
<p>{{ manifest.split }}</p><p>Licence: {{ manifest.licence or "not stated" }}</p>
<h2>Software</h2>
{{ table(("versions", "records"), software.items()) }}
<h2>Code</h2>
{{ table(("git commit", "records"), commits.items()) }}
<h2>Steps</h2>
{{ table(("result", "command", "started", "took", "commit", "record"), steps) }}
{% endblock %}
"""

TEMPLATES = Environment(loader=DictLoader({"page": PAGE, "provenance": PROVENANCE}), autoescape=True, trim_blocks=True)


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
    """Return a page that shows a Markdown text; table cells with a verdict are coloured."""
    body: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = VERDICT.sub(lambda found: f'<td class="verdict {found[1].replace(" ", "-")}">{found[1]}</td>', body)
    heading = Markup("") if "<h1>" in body else Markup("<h1>{}</h1>\n").format(title)
    return _page("page", title, body=heading + Markup(body))


def _page(template: str, title: str, **values: Any) -> str:
    return TEMPLATES.get_template(template).render(title=title, style=Markup(STYLE), **values)


def _provenance(source: Results) -> str:
    manifest, records = _manifest(source), read_all(source)
    try:
        data = [(name, manifest["name"][name], manifest[name]["images"], manifest[name]["sha256"]) for name in ("train", "test")]
    except (KeyError, TypeError) as error:
        raise source.wrong(MANIFEST, f"lacks {error}") from None
    code, line = Markup("<code>{}</code>"), Markup('<span class="line">{}</span>')
    whole = Markup("<details><summary>show</summary><pre><code>{}</code></pre></details>")
    steps = [
        (
            record.folder if Path(record.path).stem == "run" else record.path.removesuffix(".json"),
            code.format(shlex.join(record.command)),
            line.format(f"{record.started:%Y-%m-%d %H:%M:%S %Z}"),
            line.format(f"{record.wall_seconds:.1f} s"),
            _commit(record)[:10],
            whole.format(json.dumps(record.as_json(), indent=1, ensure_ascii=False)),
        )
        for record in records
    ]
    software, commits = Counter(map(_software, records)), Counter(map(_commit, records))
    values = {"preset": source.preset, "manifest": manifest, "data": data, "software": software, "commits": commits, "steps": steps}
    return _page("provenance", "Provenance", **values)


def _manifest(source: Results) -> dict[str, Any]:
    try:
        found = json.loads(_text(source, MANIFEST))
    except ValueError:
        raise source.wrong(MANIFEST, "is not JSON") from None
    if not isinstance(found, dict):
        raise source.wrong(MANIFEST, "is not a manifest")
    return found


def _software(record: RunRecord) -> str:
    machine = record.machine
    versions = [f"{name} {version}" for name, version in record.packages.items()]
    return ", ".join([f"{machine.system} {machine.processor}", f"Python {machine.python}", *versions])


def _commit(record: RunRecord) -> str:
    return (record.git.commit or "not in git") + (" with changes" if record.git.dirty else "")
