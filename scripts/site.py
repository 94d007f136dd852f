"""Hooks of the documentation's site: a page for each method of the registries, and links out of docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from benchmarks.method_pages import method_pages

ROOT = Path(__file__).parents[1]
FOLDER = "reference/methods"
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(((?:\.\./)+[^)#\s]*|[^):#\s]*)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of methods."""
    for name, text in method_pages():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to what is not on the site into the name of the file in the repository."""
    here = posixpath.dirname(page.file.src_uri)

    def kept(found: re.Match[str]) -> str:
        words, path = found[1], found[2]
        target = posixpath.normpath(posixpath.join(here, path)) if path else page.file.src_uri
        if files.get_file_from_path(target) is not None:
            return found[0]
        there = posixpath.normpath(posixpath.join("docs", target))
        return f"{words} (`{there}`)" if (ROOT / there).exists() else found[0]

    return LINK.sub(kept, markdown)
