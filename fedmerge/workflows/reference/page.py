"""The page of options, ``docs/options.md``: its tables are made from the types, its words are kept.

What an option is for is written on the page by hand and nowhere else; editors get the same words.
"""

from __future__ import annotations

import re
from pathlib import Path

from fedmerge.data.cohort.spec import PACKAGE
from fedmerge.workflows.reference.fields import Option, options

PLACES = (PACKAGE / "_shipped" / "options.md", PACKAGE.parent / "docs" / "options.md")
ROW = re.compile(r"\| `([^`|]+)` \| (.*?) \| (.*?) \| (.*?) \|$")
TO_WRITE = "…"
"""What stands in the last column of a new option until somebody says what it is for."""


def page() -> str:
    """Return the page's text, as it is shipped or in the checkout; empty where it is in neither."""
    return next((path.read_text(encoding="utf-8") for path in PLACES if path.is_file()), "")


def rows(text: str) -> dict[Option, tuple[str, str, str]]:
    """Return the tables' rows by section and option: what it may be, the default, and what it is for."""
    found: dict[Option, tuple[str, str, str]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        elif row := ROW.match(line):
            found[heading, row[1]] = (row[2], row[3], row[4])
    return found


def rewritten(text: str) -> str:
    """Return the page with the rows that the types ask for; what each option is for stays as it was.

    An option that is gone loses its row, a new one gets one with ``TO_WRITE``. A section without a heading
    gets one, with its table, at the end.
    """
    known, words = options(), {option: row[2] for option, row in rows(text).items()}
    wanted: dict[str, list[str]] = {}
    for (heading, option), (may, default) in known.items():
        what = words.get((heading, option), TO_WRITE)
        wanted.setdefault(heading, []).append(f"| `{option}` | {may} | {default} | {what} |")
    lines: list[str] = []
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        if ROW.match(line):
            lines += wanted.pop(heading, [])
        else:
            lines.append(line)
    head = ["| option | may be | default | what |", "| --- | --- | --- | --- |"]
    for title, table in wanted.items():
        lines += ["", f"### {title}", "", *head, *table]
    return "\n".join(lines) + "\n"


def plain(words: str) -> str:
    """Return words of the page without links and marks."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", words).replace("`", "")


def write(path: Path) -> bool:
    """Write the page's tables again; return whether anything changed."""
    before = path.read_text(encoding="utf-8")
    after = rewritten(before)
    path.write_text(after, encoding="utf-8")
    return after != before


if __name__ == "__main__":
    write(PLACES[1])
