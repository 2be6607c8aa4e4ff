"""Hooks of the site: a link from a page to a file of the repository outside docs/ leads to a copy of that file in the site.

On a git host the link works as it is written. In the site the file lies under repository/, text as .txt, so that a browser shows it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")
SHOWN_AS_THEY_ARE = {".pdf", ".png", ".svg"}


def _copy_of(path: str) -> str:
    """Return the path of the copy of a file of the repository in the site."""
    name = posixpath.normpath(path)
    return f"repository/{name}" if Path(name).suffix in SHOWN_AS_THEY_ARE else f"repository/{name}.txt"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the linked files; one that does not exist stays out, and the link check of MkDocs names the page."""
    root = Path(config.docs_dir).parent
    for page in list(files.documentation_pages()):
        for path in OUTSIDE.findall(page.content_string):
            if (root / path).is_file() and files.get_file_from_path(_copy_of(path)) is None:
                files.append(File.generated(config, _copy_of(path), abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page, all of which lie in docs/ itself, to the copies."""
    return OUTSIDE.sub(lambda match: _copy_of(match[1]), markdown)
