"""The page of a report: one HTML file that stands alone, with its figures and its one script inside."""

from __future__ import annotations

import base64
import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from fedmerge.reports.figures import NARROW, WIDE, Caption, render
from fedmerge.storage.manifest import rewrite

TEMPLATES = Path(__file__).parent / "templates"
LARGEST_SVG = 150_000


@dataclass(frozen=True)
class Picture:
    """A figure as the page holds it: two data URIs, for a wide and a narrow screen, and words."""

    wide: str
    narrow: str
    alt: str


def write_page(template: str, contents: dict[str, Any], path: Path) -> Path:
    """Fill a template and write it to ``path``, which is the only file that is touched.

    Text from configurations and data is escaped. A content security policy lets the page load nothing and
    run nothing but its own script for sorting tables. Raises DiskError where ``path`` cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template(template).render(script=script, script_hash=digest, **contents)
    rewrite(path, page)
    return path


def picture(
    draw: Callable[..., Figure], describe: Callable[..., Caption], *what: Any, **options: Any
) -> Picture:
    """Draw a figure for both widths of screen, with its description for those who cannot see it."""
    wide, narrow = (image_of(draw, *what, width=width, **options) for width in (WIDE, NARROW))
    return Picture(wide, narrow, describe(*what, **options).text)


def image_of(draw: Callable[..., Figure | None], *what: Any, **options: Any) -> str:
    """Draw a figure and return it as a data URI (``image_uri``); "" where there is nothing to draw."""
    with _without_collector():
        drawn = draw(*what, **options)
        return "" if drawn is None else image_uri(drawn)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Collect no garbage in the block: a figure is many thousands of objects, all in use, looked at again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def image_uri(figure: Figure) -> str:
    """Return the figure as a data URI: SVG, or PNG where the SVG is large (many images in it)."""
    drawn = render(figure, "svg")
    if len(drawn) <= LARGEST_SVG:
        return f"data:image/svg+xml;base64,{base64.b64encode(drawn).decode()}"
    return f"data:image/png;base64,{base64.b64encode(render(figure, 'png')).decode()}"


def provenance_lines(provenance: dict[str, Any], elsewhere: Iterable[str]) -> list[tuple[str, str]]:
    """Return names and values, without keys shown elsewhere on the page; a mapping or list is one line."""
    left_out = set(elsewhere)
    return [
        (str(key).replace("_", " "), _in_a_line(value))
        for key, value in provenance.items()
        if key not in left_out
    ]


def _in_a_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return "; ".join(map(_in_a_line, value)) if isinstance(value, list) else str(value)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as mappings."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
