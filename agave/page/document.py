"""The page as one html file. Beside this module lie its template document.html, its style document.css and its script document.js."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from agave.claims import Decision, comparison_text, counts, decisive
from agave.config import Params
from agave.figures import IMAGE_FIGURES, outputs
from agave.files import atomic_write
from agave.page import findings
from agave.page.files import MANIFEST, PAGE
from agave.page.parts import Exhibit
from agave.page.sections import SECTIONS, Section
from agave.page.verdicts import read_decisions
from agave.published import not_as_published
from agave.results import TABLE_1, Results
from agave.schemas import TABLE_1_SCHEMA
from agave.tables import FILES

HERE = Path(__file__).parent
MODULES = {"2": "schematic", "table1": "table1", "codec": "codec"} | dict.fromkeys(IMAGE_FIGURES, "images")
PLURALS = {"holds": "hold", "does not hold": "do not hold"}
MARKS = {"holds": "✓", "does not hold": "✗", "undecided": "?", "not testable at this scale": "–"}


def write_page(params: Params, preset: str, results: Path, claims_file: Path, to: Path) -> None:
    """Write page/index.html; the same inputs give the same bytes.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.
        claims_file: claims.yaml.
        to: folder to write page/index.html to, in general `results`.

    Raises:
        UserError: a result is missing or damaged; the message names the command that makes it.
    """
    source = Results(params, preset, results)
    text = _rendered(source, read_decisions(source, claims_file))
    with atomic_write(to / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _rendered(source: Results, decisions: Sequence[Decision]) -> str:
    templates = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"minus": _minus, "slug": lambda text: text.replace(" ", "-")}
    script, style = ((HERE / f"document.{ending}").read_text(encoding="utf-8") for ending in ("js", "css"))
    return templates.get_template("document.html").render(
        preset=source.preset,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        style=Markup(style),
        sections=[_section(source, section, decisions) for section in SECTIONS],
        decisions=decisions,
        counts=counts(decisions),
        marks=MARKS,
        plurals=PLURALS,
        home={decision.claim.id: section for section in SECTIONS for decision in _of(section, decisions)},
        decided_by=_decided_by,
        cost=findings.cost(source),
        setting=_setting(source),
        licence=_manifest(source),
    )


def _section(source: Results, section: Section, decisions: Sequence[Decision]) -> dict[str, Any]:
    figures = section.figures(source)
    return {
        "section": section,
        "figures": figures,
        "tables": section.tables(source),
        "findings": section.findings(source),
        "decisions": _of(section, decisions),
        "links": [*_links_of_tables(section), *(link for figure in figures for link in _links(figure))],
    }


def _of(section: Section, decisions: Sequence[Decision]) -> list[Decision]:
    """Return the claims whose first place belongs to a section."""
    return [decision for decision in decisions if decision.claim.where.split(", ")[0] in section.places]


def _links_of_tables(section: Section) -> list[dict[str, Any]]:
    found = []
    for stem, title in section.files:
        links = {name: f"../tables/{name}" for name in FILES if Path(name).stem == stem}
        code = f"agave/tables/{stem}.py"
        found.append({"name": title, "links": links | {code: f"../../../{code}", "run record": "../tables/run.json"}})
    return found


def _links(figure: Exhibit) -> list[dict[str, Any]]:
    """Return for each file of a figure its links: to the data, the drawing, the code and the run record."""
    found = []
    for name in figure.names:
        pdf, png, data = (f"../{path}" for path in outputs(name))
        code = f"agave/figures/{MODULES.get(name, 'curves')}.py"
        links = {Path(data).name: data, "PDF": pdf, "PNG": png, code: f"../../../{code}", "run record": f"../figures/figure{name}.json"}
        found.append({"name": f"Figure {name}" if name[0].isdigit() else figure.title, "links": links})
    return found


def _decided_by(decision: Decision) -> str:
    """Return the least favourable comparison in words; for a claim that is not testable, why."""
    one, more = decisive(decision), len(decision.comparisons) - 1
    if one is None:
        return decision.basis
    return comparison_text(one) + (f"; and {more} more" if more else "")


def _setting(source: Results) -> dict[str, Any]:
    """Return what the numbers are of: images, seeds, and how many sizes are not those of the paper."""
    table = source.table(TABLE_1, TABLE_1_SCHEMA).dropna(subset="our_model")
    images, row = table[["our_images", "our_all_images"]].max().max(), table.iloc[0]
    return {"data_set": row["our_measured_on"], "images": images, "seeds": row["our_seeds"], "other": not_as_published(source.params)}


def _manifest(source: Results) -> str:
    """Return the licence of the images, which the page shows."""
    try:
        manifest = json.loads((source.folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise source.wrong(MANIFEST, "missing") from None
    except ValueError:
        raise source.wrong(MANIFEST, "is not JSON") from None
    return str(manifest.get("licence") or "not stated") if isinstance(manifest, dict) else "not stated"


def _minus(text: str) -> str:
    """Return a text whose negative numbers have a minus sign, not a hyphen, and stand in one line with a sign of comparison."""
    return re.sub(r"([<>=≤]) (?=[−\d])", "\\1\u00a0", re.sub(r"(?<![\w.])-(?=[\d.])", "−", text))
