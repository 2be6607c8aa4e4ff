"""The report: its pages of text, and, marked `browser`, the whole of it in a headless Chromium (make test-report)."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agave import figures
from agave.config import Params, load
from agave.errors import UserError
from agave.provenance import lineage
from agave.steps import report

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports/tiny.html"

TABLE = "| Model | Ours |\n| --- | ---: |\n| AGAVE | ≤ 4.453 ‡ |\n\n‡ elsewhere  \n"
CLAIMS = """# The paper's claims, preset tiny

1 holds, 1 does not hold, 0 undecided, 1 not testable at this scale. Data: photos.

| | claim | verdict |
| --- | --- | --- |
| C1 | a <script>alert(1)</script> \\| b | **holds** |
| C2 | c | **does not hold** |
| C3 | d | **not testable at this scale** |
"""


def record(command: str) -> dict[str, Any]:
    return {
        "step": "tables",
        "command": ["agave", command, "<b>"],
        "options": {},
        "inputs": {},
        "machine": {"system": "Linux", "processor": "x86_64", "python": "3.11.7"},
        "packages": {"torch": "2.14.1"},
        "git": {"commit": "c0ffee" + 34 * "0", "dirty": True},
        "started": "2026-01-01T00:00:00+00:00",
        "wall_seconds": 1.25,
        "processor_seconds": 1.0,
        "peak_memory_mib": 9.0,
        "outputs": {"a.csv": 64 * "f"},
    }


@pytest.fixture
def params() -> Params:
    return load(ROOT / "params.yaml", "tiny")


@pytest.fixture
def results(params: Params, tmp_path: Path) -> Path:
    folder = tmp_path / "results/tiny"
    split = {"images": 16, "sha256": 64 * "a"}
    texts = {"tables/table1.md": TABLE, "claims/claims.md": CLAIMS, "records/compute.md": TABLE}
    texts["prepare/manifest.json"] = json.dumps({"name": {"train": "those", "test": "these"}, "train": split, "test": split})
    trained = [path for path in lineage.job_inputs(params) if path.startswith(("pretrain/", "joint/"))]
    for path in lineage.record_files(params):
        texts[path] = json.dumps(record(path))
    texts["trainings/runs.jsonl"] = "".join(json.dumps({"folder": str(Path(path).parent)} | record(path)) + "\n" for path in trained)
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    assert set(texts) == set(report.inputs(params))
    return folder


def pages(params: Params, results: Path) -> dict[str, str]:
    folder = results.parents[1] / "pages"
    report.write_pages(params, "tiny", results, folder)
    assert {path.name for path in folder.iterdir()} == {f"{name}.html" for name in report.NAMES}
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_pages_show_every_verdict_alike_and_every_record_whole(params: Params, results: Path) -> None:
    written = pages(params, results)
    assert '<td style="text-align:right">≤ 4.453 ‡</td>' in written["table1"]
    for verdict in ("holds", "does not hold", "not testable at this scale"):
        assert f'<td class="verdict {verdict.replace(" ", "-")}">{verdict}</td>' in written["claims"]
    provenance = html.unescape(written["provenance"])
    for path in lineage.job_inputs(params):
        assert shlex.join(["agave", path, "<b>"]) in provenance
    assert provenance.count(64 * "f") == len(lineage.job_inputs(params))
    assert "these" in provenance and 64 * "a" in provenance


def test_pages_load_nothing_and_run_nothing(params: Params, results: Path) -> None:
    for page in pages(params, results).values():
        assert "default-src 'none'" in page
        assert not re.search(r"<script|<img|<link|<b>|https?://", page)


@pytest.mark.parametrize("path", ["claims/claims.md", "trainings/runs.jsonl", "figures/figure4.json", "prepare/manifest.json"])
def test_what_is_missing_or_damaged_is_named(params: Params, results: Path, path: str) -> None:
    file = results / path
    if file.suffix != ".md":
        missing = "lacks 'name'" if path == "prepare/manifest.json" else r"is not a run record \(step: field required\)|names no folder"
        for text, problem in (("{", "is not JSON"), ("[]", "is not a (run record|manifest)"), ("{}", missing)):
            file.write_text(text)
            with pytest.raises(UserError, match=problem):
                pages(params, results)
    file.unlink()
    with pytest.raises(UserError, match=re.escape(f"snakemake --cores all results/tiny/{path} --config preset=tiny")):
        pages(params, results)


@dataclass(frozen=True)
class Seen:
    """What Chromium made of a page: its DOM after the scripts, a screenshot, and what the page asked of the network."""

    dom: str
    picture: Path
    requests: list[str]

    @property
    def text(self) -> str:
        """What stands in the DOM, scripts left out."""
        return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"<(script|style)\b.*?</\1>", "", self.dom, flags=re.DOTALL)))

    def colours(self) -> dict[tuple[int, ...], int]:
        with Image.open(self.picture) as picture:
            found = picture.convert("RGB").getcolors(picture.width * picture.height)
        assert found is not None
        return {colour: count for count, colour in found}

    @property
    def blank(self) -> bool:
        """Whether next to all of the screenshot has one colour."""
        counts = self.colours().values()
        return max(counts) > 0.99 * sum(counts)


# Opens a category and an item of it (and its caption) by clicks, as a reader does.
CLICKS = """
const pause = () => new Promise(done => setTimeout(done, 50));
const named = (selector, text) => [...document.querySelectorAll(selector)].find(one => one.textContent.trim() === text);
const rows = () => [...document.querySelectorAll("nav tbody tr")];
const label = row => row.cells[0].textContent;
async function open_category(name) {
    document.querySelector("nav nav a").click(); await pause();
    named("nav li a", name).click(); await pause();
}
async function open_item(name) { rows().find(row => label(row) === name).querySelectorAll("a")[0].click(); await pause(); }
async function open_caption(name) { rows().find(row => label(row) === name).querySelectorAll("a")[1].click(); await pause(); }
function keep(found) {
    const kept = document.createElement("pre");
    kept.id = "kept"; kept.textContent = JSON.stringify(found instanceof Error ? found.stack : found); document.body.append(kept);
}
"""


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Seen]:
    def look(page: str, script: str = "", keep_as: str = "picture") -> Seen:
        """Load a page from a file, run a script when it is there, and look."""
        home = tmp_path / "chromium"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        before, end, after = page.rpartition("</body>")
        file = home / "page.html"
        file.write_text(
            f"{before}<script>{CLICKS}(async () => {{ await pause(); {script} }})().catch(keep);</script>{end}{after}", encoding="utf-8"
        )
        picture = ROOT / f"reports/tiny/{keep_as}.png" if keep_as != "picture" else home / "picture.png"
        options = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update"]
        options += ["disable-sync", "disable-quic", "disable-extensions", "disable-default-apps", "host-resolver-rules=MAP * ~NOTFOUND"]
        options += ["window-size=1400,1000", "virtual-time-budget=30000", f"user-data-dir={home}/profile", f"screenshot={picture}"]
        options += [f"log-net-log={home}/log.json", "net-log-capture-mode=Everything", "dump-dom"]
        command = ["chromium", *(f"--{option}" for option in options), file.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"HOME": str(home)})
        assert done.returncode == 0 and picture.exists(), done.stderr
        log = json.loads((home / "log.json").read_text())
        start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
        asked = [event["params"] for event in log["events"] if event["type"] == start and "url" in event.get("params", {})]
        # what Chromium asks for on its own behalf (updates, time) has no origin
        return Seen(done.stdout, picture, [one["url"] for one in asked if one["initiator"] != "not an origin"])

    return look


def kept(seen: Seen) -> Any:
    found = re.search(r'<pre id="kept">(.*?)</pre>', seen.dom, re.DOTALL)
    assert found is not None, "the clicks did not come to an end"
    value = json.loads(html.unescape(found[1]))
    assert not isinstance(value, str), value
    return value


@pytest.fixture(scope="module")
def tiny() -> str:
    if not REPORT.exists():
        pytest.fail("there is no report of the preset tiny; make it with: make test-report")
    return REPORT.read_text(encoding="utf-8")


@pytest.mark.browser
def test_a_request_to_the_network_would_be_seen(look: Callable[..., Seen]) -> None:
    inner = html.escape('<img src="https://frame.invalid/">')
    page = f'<body><img src="http://picture.invalid/"><iframe src="data:text/html,{inner}"></iframe></body>'
    seen = look(page, 'fetch("https://script.invalid/").catch(() => 0);')
    assert sorted(seen.requests) == ["http://picture.invalid/", "https://frame.invalid/", "https://script.invalid/"]
    assert seen.blank  # and a page without content is told from one with


@pytest.mark.browser
def test_the_start_page_says_what_is_there(tiny: str, look: Callable[..., Seen]) -> None:
    seen = look(tiny, keep_as="start")
    assert seen.requests == []
    assert "AGAVE, reproduced: preset tiny" in seen.text
    assert re.search(r"holds \d+, does not hold \d+, undecided \d+, not testable at this scale \d+\. Data: photos test", seen.text)
    for name in ("Claims", "Compute", "Figures", "Provenance", "Tables", "Figure 4", "Table 1", "the verdicts"):
        assert re.search(rf'href="(#|javascript:app\.show[^"]*)"[^>]*>(<svg.*?</svg>)?(<span>)?{name}<', seen.dom), name
    assert "<canvas" in seen.dom  # the diagram of the rules
    assert not seen.blank


@pytest.mark.browser
def test_every_item_of_every_category_opens(tiny: str, look: Callable[..., Seen]) -> None:
    script = """
    const found = [];
    for (const category of Object.keys(categories).sort()) {
        await open_category(category);
        for (const name of rows().map(label)) {
            if (!name.includes("download")) { await open_item(name); }
            const image = document.querySelector("#app img[src^='data:image/png']"), frame = document.querySelector("iframe");
            while (image && !image.complete) { await pause(); }
            const page = frame ? atob(frame.src.split("base64,")[1]).length : 0;
            found.push({category, name, width: image ? image.naturalWidth : 0, page});
            await open_caption(name);
            found.at(-1).caption = document.querySelector("nav .prose").textContent;
            await open_category(category);
        }
    }
    keep(found);"""
    seen = look(tiny, script)
    assert seen.requests == []
    found = {(one["category"], one["name"]): one for one in kept(seen)}
    opened = {("Figures", name) for name in figures.NAMES}
    opened |= {("Claims", "Claims and verdicts"), ("Compute", "Time and memory of each step"), ("Tables", "Table 1")}
    opened |= {("Provenance", "Data, software, code and every step")}
    assert opened <= set(found)
    for category, name in opened:
        one = found[category, name]
        assert one["width"] > 500 if category == "Figures" else one["page"] > 1000, one
    assert all(one["caption"].strip() for one in found.values())


@pytest.mark.browser
def test_a_figure_and_the_verdicts_are_seen(tiny: str, look: Callable[..., Seen]) -> None:
    figure = look(tiny, 'await open_category("Figures"); await open_item("4"); await open_caption("4");', keep_as="figure4")
    assert "Figure 4, preset tiny: bits per dimension of both decoders" in figure.text
    blue = figure.colours().get((1, 115, 178), 0)
    assert blue > 300 and figure.requests == []
    claims = look(tiny, 'await open_category("Claims"); await open_item("Claims and verdicts");', keep_as="claims")
    colours = dict(re.findall(r"\.([a-z-]+) { background: #(\w{6});", report.STYLE))
    first = re.findall(r'class="verdict ([a-z-]+)"', (REPORT.with_suffix("") / "claims.html").read_text(encoding="utf-8"))[:6]
    for verdict in first:
        area = claims.colours().get(tuple(bytes.fromhex(colours[verdict])), 0)
        assert area > 1000, f"{verdict} is not seen"
    assert claims.requests == []


@pytest.mark.browser
def test_the_report_names_no_folder_of_this_machine(tiny: str) -> None:
    found = re.search(r'<script id="results">\s*var results = (.*);\n', tiny)
    assert found is not None
    results = json.loads(found[1])
    texts = [re.sub(r"base64,[\w+/=]+", "", tiny)]
    texts += [
        base64.b64decode(one["data_uri"].split("base64,")[1]).decode() for one in results.values() if one["mime_type"].startswith("text/")
    ]
    for text in texts:
        assert str(ROOT) not in text and f"{Path.home()}/" not in text
    for text in [json.dumps([one | {"data_uri": ""} for one in results.values()]), *texts[1:]]:
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
