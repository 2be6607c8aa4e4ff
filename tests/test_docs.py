import importlib.util
import re

import yaml


def test_deviations_are_the_tags_of_the_code(root):
    spec = importlib.util.spec_from_file_location("deviations", root / "docs" / "deviations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (root / "docs" / "deviations.md").read_text() == module.document(), "run `make docs`"
    text = module.document()
    assert text.count("\n- ") >= 30 and "`paper.joint.batch`" in text


def test_links_and_files_of_the_pages_exist(root):
    for page in [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_of_the_readme_exist(root):
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)\b", (root / "README.md").read_text()))
    assert named and named <= targets


def test_citation_and_licence(root):
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["license"] == "MIT" and "MIT License" in (root / "LICENSE").read_text()
