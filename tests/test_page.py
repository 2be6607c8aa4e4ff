"""The page "the paper, reproduced": what it shows and from which files; and, marked `browser`, how it looks and behaves in Chromium."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from browser import Browser, browser
from fake_records import write_records
from fake_results import write_results
from PIL import Image

from agave import claims, figures, tables
from agave.config import Params, load
from agave.errors import UserError
from agave.page.files import PAGE, RECORD, inputs
from agave.page.findings import systems_table
from agave.page.sections import SECTIONS
from agave.provenance.run_record import COMPUTE
from agave.results import Results
from agave.review import redraw
from agave.steps import page

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "claims.yaml"
MIB = 1024 * 1024


class Document(HTMLParser):
    """The elements of a page as (tag, attributes), its text without style and script, and its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self._inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def params() -> Params:
    return load(ROOT / "params.yaml", "tiny")


@pytest.fixture(scope="module")
def finished(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the preset `tiny` with their page, made from results that are made up."""
    root = tmp_path_factory.mktemp("page")
    results = Path("results/tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_results(params, results)
        write_records(params, "tiny")
        (results / "prepare/manifest.json").write_text('{"licence": "CC0, by <nobody>"}')
        tables.write_tables(params, "tiny", results)
        for name in figures.NAMES:
            figures.draw(name, params, "tiny", results)
        claims.write_claims(params, "tiny", results, CLAIMS)
        rows = {"step": "all", "jobs": 3, "wall_hours": 1.5, "processor_hours": 2.25, "gpu_hours": 0, "longest_job_minutes": 7.5}
        (results / COMPUTE).parent.mkdir()
        (results / COMPUTE).write_text(",".join([*rows, "peak_memory_mib"]) + "\n" + ",".join([*map(str, rows.values()), "123"]) + "\n")
        page.run(params, "tiny", results, CLAIMS)
    return root / results


@pytest.fixture
def results(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished, tmp_path / "results/tiny")


@pytest.fixture(scope="module")
def document(finished: Path) -> Document:
    return Document((finished / PAGE).read_text(encoding="utf-8"))


def written(params: Params, results: Path) -> str:
    return page.run(params, "tiny", results, CLAIMS).read_text(encoding="utf-8")


def edit(path: Path, change: Callable[[list[dict[str, str]]], None]) -> None:
    """Change the rows of a csv file."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_every_figure_and_table_of_the_preset_is_shown_with_its_files(document: Document) -> None:
    targets = [one["href"] for one in document.all("a")]
    for name in figures.NAMES:
        for path in [*figures.outputs(name), f"figures/figure{name}.json"]:
            assert targets.count(f"../{path}") == 1, path
    assert "../tables/table1.csv" in targets and "../../../reports/tiny.html" in targets
    for target in targets:
        if target.startswith("../../../") and "reports/" not in target:
            assert (ROOT / target.removeprefix("../../../")).exists(), target
    assert len(document.all("img")) > len(figures.NAMES) and all(len(one["alt"]) > 10 for one in document.all("img"))


def test_every_claim_is_listed_once_and_stands_in_the_section_of_its_place(document: Document, finished: Path) -> None:
    entries = yaml.safe_load(CLAIMS.read_text())
    assert [one["id"] for one in document.all("article")] == [entry["id"] for entry in entries]
    places = [place for section in SECTIONS for place in section.places]
    assert len(places) == len(set(places))
    for entry in entries:
        assert entry["where"].split(", ")[0] in places, f"{entry['id']}: no section of the page has this place"
    linked = [one["href"] for one in document.all("a")]
    for entry in entries:
        assert linked.count(f"#{entry['id']}") == 2  # in the summary, and in its section
    with (finished / "claims/claims.csv").open() as file:
        verdicts = {row["id"]: row["verdict"] for row in csv.DictReader(file)}
    for verdict in set(verdicts.values()):
        number = list(verdicts.values()).count(verdict)
        assert re.search(rf"\b{number} {verdict.replace('holds', 'hold').replace('does', 'do')}\b", document.text)


def test_the_decisions_are_those_of_claims_md(document: Document, finished: Path) -> None:
    text = re.sub(r"\s+", " ", document.text.replace("−", "-").replace("\xa0", " "))
    for line in (finished / "claims/claims.md").read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) > 5 and cells[1].startswith("C") and cells[4]:
            measure, _, decided = cells[4].partition(", ")
            assert decided in text and measure in text, cells[1]


@pytest.mark.parametrize(
    ("path", "column"),
    [
        ("figures/figure4.csv", "bits_per_dim"),
        ("figures/figure5b.csv", "bits_per_dim"),
        ("figures/figuregrowth.csv", "iwae_bits_per_dim"),
        ("tables/table1.csv", "our_bits_per_dim"),
        ("tables/order.csv", "rank_correlation"),
        ("claims/claims.csv", "value"),
        (COMPUTE, "processor_hours"),
    ],
)
def test_numbers_come_from_the_csv_files(params: Params, results: Path, path: str, column: str) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        first = next(row for row in rows if row[column])
        for row in rows if "growth" in path else [first]:  # the growth is shown as means over seeds
            row[column] = "77.12"

    assert "77.1" not in written(params, results)
    edit(results / path, change)
    assert "77.1" in written(params, results)


def test_verdicts_come_from_claims_csv(params: Params, results: Path) -> None:
    verdicts = results / "claims/claims.csv"
    assert "C11,holds" in verdicts.read_text()
    verdicts.write_text(verdicts.read_text().replace("C11,holds", "C11,undecided"))
    assert re.search(r'id="h-C11">C11\s+<span class="badge undecided">', written(params, results))


def test_an_image_comes_from_the_file_behind_its_figure(params: Params, results: Path) -> None:
    before = written(params, results)
    with np.load(results / "figures/figure1a.npz") as arrays:
        grid = arrays["prior"]
    np.savez_compressed(results / "figures/figure1a.npz", prior=255 - grid)
    after = written(params, results)
    pictures = [re.findall(r"base64,([^\"]+)", text) for text in (before, after)]
    changed = [pair for pair in zip(*pictures, strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(changed[0][1]))).convert("RGB"))
    assert np.array_equal(shown[: grid.shape[2], : grid.shape[3]], 255 - grid[0, 0])


def test_the_same_results_give_the_same_bytes(params: Params, results: Path) -> None:
    first = written(params, results)
    assert written(params, results) == first


def test_the_page_loads_nothing_and_names_no_folder_of_this_machine(document: Document, finished: Path) -> None:
    text = (finished / PAGE).read_text(encoding="utf-8")
    for tag, attributes in document.elements:
        for name in ("src", "srcset", "data", "poster") + (("href",) if tag == "link" else ()):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes[name][:80])
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    assert len(text) < 15 * MIB
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text
    assert "by &lt;nobody&gt;" in text  # the licence, as text


def test_the_structure_serves_a_screen_reader(document: Document) -> None:
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    names = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(names) == len(set(names))
    for _, attributes in document.elements:
        for reference in ("aria-labelledby", "for"):
            assert attributes.get(reference, names[0]) in names
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in names
    assert [len(document.all(tag)) for tag in ("main", "nav", "header", "footer")] == [1, 1, 1, 1]
    assert document.all("html")[0]["lang"] == "en"
    labelled = {one["for"] for one in document.all("label")}
    assert {one["id"] for one in document.all("input")} == labelled and len(labelled) == 2
    assert all(one.get("scope") in ("row", "col") for one in document.all("th"))


@pytest.mark.parametrize("path", ["figures/figure4.csv", "figures/figure4.png", "figures/figure3a.npz", "claims/claims.csv", COMPUTE])
def test_what_is_missing_is_named_with_the_command_that_makes_it(params: Params, results: Path, path: str) -> None:
    (results / path).unlink()
    with pytest.raises(
        UserError, match=re.escape(f"missing; make it with: snakemake --cores all results/tiny/{path} --config preset=tiny")
    ):
        written(params, results)


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("prepare/manifest.json", "{", "is not JSON"),
        ("figures/figure3a.npz", "PK", "cannot be read|damaged|not a|no npz|zip"),
        (
            "figures/figure4.csv",
            "cell,kl_weight,levels,quantity,bits_per_dim,standard_error,seeds\nx,1,2,kl,1,1,1\n",
            "has no kl of kl_weight",
        ),
        ("claims/claims.csv", "", "claims/claims.csv"),
    ],
)
def test_what_is_damaged_is_named(params: Params, results: Path, path: str, text: str, problem: str) -> None:
    (results / path).write_text(text)
    with pytest.raises(UserError, match=problem):
        written(params, results)


def test_verdicts_of_other_claims_are_refused(params: Params, results: Path) -> None:
    for old, new, problem in (
        ("C1,", "C99,", "has no verdict on the claim C1 of claims.yaml"),
        (",identity,", ",kl,", "has a comparison of C11, kl, that claims.yaml does not name"),
    ):
        text = (results / "claims/claims.csv").read_text()
        (results / "claims/claims.csv").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=problem):
            written(params, results)
        (results / "claims/claims.csv").write_text(text)


def test_the_run_record_names_its_inputs(params: Params, finished: Path) -> None:
    record = json.loads((finished / RECORD).read_text())
    assert set(record["inputs"]) == {"claims.yaml", *inputs(params)} and list(record["outputs"]) == ["index.html"]


def test_a_review_compares_texts_and_pixels(finished: Path, tmp_path: Path) -> None:
    text = (finished / PAGE).read_text(encoding="utf-8")
    old, new = tmp_path / "old.html", tmp_path / "new.html"
    old.write_text(text, encoding="utf-8")
    first = re.search(r"base64,([^\"]+)", text)
    assert first is not None
    with Image.open(io.BytesIO(base64.b64decode(first[1]))) as image:
        packed, inverted = io.BytesIO(), io.BytesIO()
        image.save(packed, "PNG", compress_level=0)
        Image.eval(image.convert("RGB"), lambda value: 255 - value).save(inverted, "PNG")
    for file, expected in ((packed, ""), (inverted, "another picture")):
        new.write_text(text.replace(first[1], base64.b64encode(file.getvalue()).decode()), encoding="utf-8")
        assert redraw._html(old, new).startswith(expected) and bool(redraw._html(old, new)) is bool(expected)
    new.write_text(text.replace("<h1>", "<h1>Another "), encoding="utf-8")
    assert redraw._html(old, new).startswith("line ")


def page_of(preset: str, folder: Path) -> Path:
    """Make the page of a preset from the files in git that it names as its inputs, and from nothing else."""
    for path in inputs(load(ROOT / "params.yaml", preset)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(ROOT / "results" / preset / path)
    return page.run(load(ROOT / "params.yaml", preset), preset, folder, CLAIMS)


@pytest.mark.parametrize("preset", ["demo", "study"])
def test_the_page_is_made_from_the_files_in_git(preset: str, tmp_path: Path) -> None:
    text = page_of(preset, tmp_path).read_text(encoding="utf-8")
    assert len(text) < 6 * MIB
    for target in (one["href"] for one in Document(text).all("a")):
        if target.startswith("../") and "reports/" not in target:
            assert (ROOT / "results" / preset / "page" / ".." / target.removeprefix("../")).exists(), target


@pytest.mark.parametrize("preset", ["demo", "study"])
def test_rows_of_table_1_can_be_told_apart(preset: str) -> None:
    """The study has two models of ours for one published row."""
    rows = systems_table(Results(load(ROOT / "params.yaml", preset), preset, ROOT / "results" / preset))[0].rows
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names) >= 12


SCHEMES = [("light", 375), ("light", 1400), ("dark", 375), ("dark", 1400)]

# The lowest contrast of a text with what is behind it, as WCAG 2 defines it, and that text.
CONTRAST = """(() => {
    const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return { rgb: [r, g, b], a }; };
    const luminance = (rgb) => {
        const [r, g, b] = rgb.map((value) => value / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const { rgb, a } = parse(getComputedStyle(one).backgroundColor);
            if (a === 1) return rgb;
            if (a > 0) throw new Error("a background that is partly transparent: " + one.className);
        }
        throw new Error("no background");
    };
    document.querySelectorAll("details").forEach((one) => { one.open = true; });
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let worst = [99, ""], texts = 0;
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
        if (!text || element.matches("script, style") || !element.getClientRects().length) continue;
        const [one, two] = [parse(getComputedStyle(element).color).rgb, behind(element)].map(luminance);
        const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        texts += 1;
        if (ratio < worst[0]) worst = [ratio, text];
    }
    return { ratio: worst[0], text: worst[1], texts };
})()"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium with the page of the preset demo."""
    url = page_of("demo", tmp_path_factory.mktemp("demo")).as_uri()
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        found.look_like(1400)
        found.open(url)
        yield found


def visible(chromium: Browser, figure: str) -> list[str]:
    """Labels of the steps of a slider that are seen."""
    steps = f"[...document.querySelectorAll('#{figure} .step')]"
    labels: list[str] = chromium.value(f"{steps}.filter(one => one.getClientRects().length).map(one => one.dataset.label)")
    return labels


@pytest.mark.browser
def test_every_image_has_loaded_without_a_request_or_an_error(chromium: Browser) -> None:
    widths = chromium.value("[...document.images].map(one => one.naturalWidth)")
    assert len(widths) > 30 and all(width > 0 for width in widths)
    asked = [event["request"]["url"] for method, event in chromium.events if method == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert [event for event in chromium.events if event[0] != "Network.requestWillBeSent"] == []


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), SCHEMES)
def test_nothing_overflows_and_every_text_can_be_read(chromium: Browser, scheme: str, width: int) -> None:
    chromium.look_like(width, scheme)
    chromium.picture(ROOT / f"reports/page/{scheme}-{width}.png")
    assert chromium.value("innerWidth") == width  # a page that is too wide would make the window of a phone wider
    assert chromium.value("document.documentElement.scrollWidth <= innerWidth")
    sideways = "[...document.querySelectorAll('main *')].filter(one => one.scrollWidth > one.clientWidth + 1 && "
    sideways += (
        "getComputedStyle(one).overflowX === 'visible' && getComputedStyle(one).display === 'block').map(one => one.outerHTML.slice(0, 90))"
    )
    assert chromium.value(sideways) == []
    found = chromium.value(CONTRAST)
    assert found["texts"] > 500
    assert found["ratio"] >= 4.5, found
    assert chromium.value("matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("figure", "first", "second", "last"), [("f-figure-3-1", "λ = 1", "λ = 2", "λ = 12"), ("f-figure-5-1", "256", "32", "2")]
)
def test_the_sliders_change_the_images_by_keyboard(chromium: Browser, figure: str, first: str, second: str, last: str) -> None:
    chromium.look_like(1400)
    chromium.value(f"document.querySelector('#{figure} input').focus()")
    chromium.press("Home", 36)
    assert [label.removesuffix(" levels") for label in visible(chromium, figure)] == [first]
    shown = f"[...document.querySelectorAll('#{figure} .step img')].filter(one => one.getClientRects().length).map(one => one.src)"
    before = chromium.value(shown)
    chromium.press("ArrowRight", 39)
    assert [label.removesuffix(" levels") for label in visible(chromium, figure)] == [second]
    assert all(one != other for one, other in zip(before, chromium.value(shown), strict=True))
    said = f"[document.querySelector('#{figure} output').textContent, document.querySelector('#{figure} input').ariaValueText]"
    assert chromium.value(said) == [visible(chromium, figure)[0]] * 2
    chromium.press("End", 35)
    assert [label.removesuffix(" levels") for label in visible(chromium, figure)] == [last]
    chromium.value(f"document.querySelector('#{figure} button').focus()")
    chromium.press(" ", 32)
    assert len(visible(chromium, figure)) == chromium.value(f"document.querySelectorAll('#{figure} .step').length") > 2
    assert chromium.value(f"document.querySelector('#{figure} button').getAttribute('aria-pressed')") == "true"
    chromium.press(" ", 32)
    assert len(visible(chromium, figure)) == 1


@pytest.mark.browser
def test_focus_is_seen_and_motion_is_a_wish(chromium: Browser) -> None:
    chromium.look_like(1400)
    chromium.press("Tab", 9)
    assert chromium.value("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    assert chromium.value("getComputedStyle(document.documentElement).scrollBehavior") == "smooth"
    chromium.look_like(1400, motion="reduce")
    assert chromium.value("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


@pytest.mark.browser
def test_a_link_to_a_claim_opens_its_comparisons(chromium: Browser) -> None:
    chromium.value("document.querySelector('#C5 details').open = false; location.hash = '#C5'; new Promise(done => setTimeout(done, 50))")
    assert chromium.value("document.querySelector('#C5 details').open")
