"""The common style of all figures: colours, sizes of type, titles, and rendering to a file."""

from __future__ import annotations

import functools
import io
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from torch import Tensor

WIDE, NARROW = 7.2, 3.9
"""Widths in inches: of a page, and of a phone, where panels stand below each other."""

# Okabe and Ito's palette for all kinds of colour vision; yellow is too pale for lines and comes last.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#555555", "#C9B700")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<")
INK, FAINT, PALE, REFERENCE = "#1c2530", "#6b7683", "#d9dee4", "#8a939e"
TYPE, TITLE, SMALL = 9.0, 10.5, 7.5
FAMILIES = "'DejaVu Sans', Verdana, 'Bitstream Vera Sans', 'Noto Sans', sans-serif"
"""What an SVG's text is set in: figures are laid out for the first, and the second has its widths. Text stays
text: a third of the bytes of its outlines."""
PIXELS, SCREEN = 200.0, 100.0
"""Pixels per inch of a PNG, and of one in a notebook."""
LINE = 0.19
"""Height of a line of a title in inches; sizes of type are in points."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": TYPE,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff2",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.titlesize": TYPE,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "fedmerge",
    "svg.fonttype": "none",
}

P = ParamSpec("P")


class Caption(NamedTuple):
    """A figure in words. title: one sentence, set above it. detail: its numbers, for non-visual readers."""

    title: str
    detail: str

    @property
    def text(self) -> str:
        """Title and detail as running text."""
        return f"{self.title}. {self.detail}"


class Shown(Figure):
    """A figure that a notebook shows as it is, without pyplot."""

    def _repr_png_(self) -> bytes:
        return render(self, "png", SCREEN)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function to draw in ``STYLE`` and leave matplotlib's settings as they were."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def letters(inches: float, points: float = TYPE) -> int:
    """Return how many letters of a size fit into a width; titles are bold, so wider."""
    return max(int(inches * 72 / ((0.61 if points >= TITLE else 0.54) * points)), 4)


def wrapped(text: str, inches: float, points: float = TYPE) -> list[str]:
    """Split a text into lines that fit into a width."""
    return textwrap.wrap(text, letters(inches, points)) or [""]


def shortened(text: str, length: int) -> str:
    """Shorten a text to at most ``length`` letters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def figure(width: float, height: float, title: str) -> Figure:
    """Make an empty figure with a title over its whole width, whose lines add to ``height`` (inches)."""
    lines = wrapped(title, width - 0.2, TITLE)
    made = Shown(figsize=(width, height + 0.1 + LINE * len(lines)), layout="constrained")
    made.suptitle("\n".join(lines), x=0.1 / width, ha="left", fontsize=TITLE, fontweight="bold")
    return made


def drawing(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Make a figure whose one Axes is a sheet measured in inches, origin at the top left, below the title."""
    lines = wrapped(title, width - 0.2, TITLE)
    total = height + 0.1 + LINE * len(lines)
    made = Shown(figsize=(width, total))
    made.text(0.1 / width, 1 - 0.06 / total, "\n".join(lines), va="top", fontsize=TITLE, fontweight="bold")
    sheet = made.add_axes((0.0, 0.0, 1.0, height / total))
    sheet.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    sheet.axis("off")
    return made, sheet


def message(width: float, text: str) -> Figure:
    """Make a figure that only says why there is nothing to draw."""
    return figure(width, 0.3, text)


def picture(axes: Axes, image: Tensor, left: float, top: float, side: float) -> None:
    """Draw one uint8 image (C x H x W) on a sheet in inches, its pixels kept sharp."""
    pixels = image.permute(1, 2, 0).numpy()
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]
    axes.imshow(
        pixels,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="none",
        aspect="auto",
        zorder=2,
        extent=(left, left + side, top + side, top),
    )


def colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name, by its position; from the ninth on colours repeat."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def render(made: Figure, kind: str, pixels: float = PIXELS) -> bytes:
    """Render the figure as ``svg`` or as ``png`` of so many pixels per inch; the same figure, the same bytes.

    The canvas prints it itself, because ``savefig`` draws every figure twice, first to learn its size.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        canvas: Any = FigureCanvasSVG(made) if kind == "svg" else FigureCanvasAgg(made)
        if kind == "svg":
            canvas.print_svg(buffer, metadata={"Date": None})
            return _small(buffer.getvalue().decode()).encode()
        made.set_dpi(pixels)
        canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _small(svg: str) -> str:
    """Return an SVG with families for every machine, without indentation and needless decimals."""
    text = svg.replace("'DejaVu Sans'", FAMILIES)
    text = re.sub(r"(\d\.\d{2})\d+", r"\1", text)
    return re.sub(r"\n\s*", "\n", text)
