"""Hooks of the documentation's site: a page for each method of the registries, and links out of docs/."""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from pydantic.fields import FieldInfo

import fedmerge
from fedmerge.registry import Method
from fedmerge.workflows.reference.fields import may_be

ROOT = Path(__file__).parents[1]
FOLDER = "reference/methods"
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(((?:\.\./)+[^)#\s]*|[^):#\s]*)(#[^)\s]*)?\)")
GROUPS = {"fusion": "Fusion", "test-time": "At the unseen hospital", "aggregation": "Aggregators of rounds"}


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


def method_pages() -> Iterator[tuple[str, str]]:
    """Yield a page for each method, and their index, as (name, Markdown)."""
    known = fedmerge.methods()
    for method in known:
        yield page_name(method), method_page(method)
    lines = ["# Every method", ""]
    for group in dict.fromkeys(method.group for method in known):
        lines += [
            f"## {GROUPS.get(group, group)}",
            "",
            "| method | what it does | needs |",
            "| --- | --- | --- |",
        ]
        for method in known:
            if method.group == group:
                needs = ", ".join(method.needs.names()) or "the models"
                lines.append(f"| [`{method.name}`]({page_name(method)}.md) | {method.summary} | {needs} |")
        lines.append("")
    yield "index", "\n".join(lines)


def page_name(method: Method) -> str:
    """Return the name of a method's page: fusion methods and aggregators may share a name."""
    return f"{method.group}-{method.name}".lower()


def method_page(method: Method) -> str:
    """Return a method's page: what it is, where from, what it needs, its options, and its docstring."""
    fields = method.options.model_fields
    rows = [
        f"| `{name}` | {may_be(field.annotation, field.metadata)} | {_default(field)} |"
        for name, field in fields.items()
    ]
    head = ["| option | may be | default |", "| --- | --- | --- |"]
    return "\n".join(
        [
            f"# {method.title}: `{method.name}`",
            "",
            f"Paper: {method.paper}." if method.paper else "No paper.",
            "",
            f"Needs: {', '.join(method.needs.names()) or 'nothing but the models'}.",
            "",
            *([*head, *rows] if rows else ["No options."]),
            "",
            "```text",
            inspect.getdoc(method.call) or "",
            "```",
            "",
            f"`fedmerge methods {method.name}` prints the same.",
            "",
        ]
    )


def _default(field: FieldInfo) -> str:
    """Return a default as Python writes it, as `fedmerge methods` does."""
    return "needed" if field.is_required() else f"`{field.default!r}`".replace("|", "\\|")
