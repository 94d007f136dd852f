"""Frames as the analysis gives them, made by hand, and what can be asked of a drawn figure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

FEW = ("mean", "greedy", "fisher", "ties", "entropy-adaptive")
MANY = tuple(f"method-{i}" for i in range(30))
LONG = ("mean", *(f"entropy-adaptive with temperature {t} and momentum 0.9" for t in (0.1, 1, 10)))


def stacked(strata: Sequence[str], make: Callable[[int], list[dict[str, Any]]]) -> pd.DataFrame:
    """The rows of each stratum below each other, the column ``cohort`` in front."""
    return pd.DataFrame(
        [({"cohort": name} if name else {}) | row for i, name in enumerate(strata) for row in make(i)]
    )


def make_board(
    levels: Sequence[str] = FEW, strata: Sequence[str] = ("",), half: float = 0.02, compare: str = "method"
) -> pd.DataFrame:
    """A leaderboard: level i is 2 i points above the first, which has 60 % (1 point more each stratum).

    Its interval is +- ``half`` around; it costs 1 + i forward passes and 10^(i / 10) seconds.
    """

    def rows(stratum: int) -> list[dict[str, Any]]:
        return [
            {
                compare: level,
                "mean": 0.6 + 0.02 * i % 0.3 + 0.01 * stratum,
                "low": 0.6 + 0.02 * i % 0.3 + 0.01 * stratum - half,
                "high": 0.6 + 0.02 * i % 0.3 + 0.01 * stratum + half,
                "difference": 0.02 * i,
                "difference_low": 0.02 * i - half * (i > 0),
                "difference_high": 0.02 * i + half * (i > 0),
                "complete": True,
                "forward_passes": 1.0 + i,
                "seconds": 10 ** (i / 10),
            }
            for i, level in enumerate(levels)
        ]

    return stacked(strata, rows)


def make_bins(levels: Sequence[str] = FEW, strata: Sequence[str] = ("",)) -> pd.DataFrame:
    """Reliability in ten bins: the first is empty, then 10 images a bin; level i is i points too sure."""

    def rows(_: int) -> list[dict[str, Any]]:
        return [
            {
                "method": level,
                "bin": b,
                "low": b / 10,
                "high": (b + 1) / 10,
                "n": 10 if b else 0,
                "confidence": (b + 0.5) / 10 if b else np.nan,
                "accuracy": (b + 0.5) / 10 - 0.01 * i if b else np.nan,
            }
            for i, level in enumerate(levels)
            for b in range(10)
        ]

    return stacked(strata, rows)


def make_curve(
    levels: Sequence[str] = FEW, strata: Sequence[str] = ("",), half: float = 0.01
) -> pd.DataFrame:
    """Severity 0 to 5: level i starts at 90 % and loses i + 1 points a step (stratum s: s more at once)."""

    def rows(stratum: int) -> list[dict[str, Any]]:
        means = [
            (level, s, 0.9 - 0.01 * stratum - 0.01 * (i + 1) * s)
            for i, level in enumerate(levels)
            for s in range(6)
        ]
        return [
            {"level": level, "severity": s, "mean": mean, "low": mean - half, "high": mean + half}
            for level, s, mean in means
        ]

    return stacked(strata, rows)


def make_sites(
    levels: Sequence[str] = FEW,
    sites: Sequence[str] = ("Rotterdam", "Vienna (MoleMax)", "Sydney"),
    strata: Sequence[str] = ("",),
) -> pd.DataFrame:
    """Level i has 90 - i % at the first site and 5 points less at each further one."""

    def rows(_: int) -> list[dict[str, Any]]:
        return [
            {"level": level, "site": site, "mean": 0.9 - 0.01 * i - 0.05 * s, "low": np.nan, "high": np.nan}
            for i, level in enumerate(levels)
            for s, site in enumerate(sites)
        ]

    return stacked(strata, rows)


@pytest.fixture
def board() -> Callable[..., pd.DataFrame]:
    return make_board


@pytest.fixture
def bins() -> Callable[..., pd.DataFrame]:
    return make_bins


@pytest.fixture
def curve() -> Callable[..., pd.DataFrame]:
    return make_curve


@pytest.fixture
def sites() -> Callable[..., pd.DataFrame]:
    return make_sites


CASES: dict[str, dict[str, Any]] = {
    "few": {},
    "one": {"levels": ("mean", "greedy")},
    "many": {"levels": MANY},
    "long": {"levels": LONG},
    "four strata": {"levels": ("mean", "greedy"), "strata": ("blood", "digits", "a longer name", "d")},
    "thirteen strata": {"strata": tuple(f"cohort {i}" for i in range(13))},
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Levels and strata: few, many, long names, small panels, too many panels."""
    return CASES[request.param]


@pytest.fixture(params=[7.2, 3.9], ids=["wide", "narrow"])
def width(request: pytest.FixtureRequest) -> float:
    return request.param


def written(figure: Figure) -> list[Text]:
    """All text in a figure that is seen; of ticks out of view it is not."""
    hidden = []
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        hidden += [id(tick.label1) for tick in ticks]
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden
    ]


@pytest.fixture
def texts() -> Callable[[Figure], str]:
    """All text in a figure, in one line."""
    return lambda figure: " ".join(" ".join(text.get_text().split()) for text in written(figure))


@pytest.fixture
def neat() -> Callable[[Figure, float], None]:
    """Assert that a figure has its width, and that no text touches another or leaves the sheet."""

    def check(figure: Figure, width: float) -> None:
        assert figure.get_figwidth() == width
        figure.draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent().padded(-0.5)) for text in written(figure)]
        for (one, box), (other, second) in itertools.combinations(boxes, 2):
            assert not box.overlaps(second), f"{one!r} touches {other!r}"
        for one, box in boxes:
            assert figure.bbox.x0 - 1 <= box.x0, f"{one!r} leaves the sheet"
            assert box.x1 <= figure.bbox.x1 + 1, f"{one!r} leaves the sheet"

    return check


@pytest.fixture
def shuffled() -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The rows of a frame in another order."""
    return lambda frame: frame.sample(frac=1, random_state=1)
