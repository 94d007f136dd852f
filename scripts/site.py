"""Hooks of the documentation's site: pages of methods and notebooks, and links out of docs/."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from benchmarks.method_pages import method_pages
from scripts.notebooks import FOLDER as NOTEBOOKS
from scripts.notebooks import as_markdown

ROOT = Path(__file__).parents[1]
FOLDER = "reference/methods"
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(((?:\.\./)+[^)#\s]*|[^):#\s]*)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of methods and of notebooks."""
    for name, text in method_pages():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=text))
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        page = as_markdown(json.loads(path.read_text(encoding="utf-8")))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to notebooks to their pages, and name files that are not on the site."""
    here = posixpath.dirname(page.file.src_uri)
    markdown = re.sub(r"\(([\w./-]*)\.ipynb\)", r"(\1.md)", markdown)

    def kept(found: re.Match[str]) -> str:
        words, path = found[1], found[2]
        target = posixpath.normpath(posixpath.join(here, path)) if path else page.file.src_uri
        if files.get_file_from_path(target) is not None:
            return found[0]
        there = posixpath.normpath(posixpath.join("docs", target))
        return f"{words} (`{there}`)" if (ROOT / there).exists() else found[0]

    return LINK.sub(kept, markdown)
