"""Made-up tables of results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest

Score = Callable[..., float]


@pytest.fixture
def make_table() -> Callable[..., pd.DataFrame]:
    """``make_table(score, axes, shifts)``: score(**where) for all seeds, sites, streams, shifts and axes."""

    def make(
        score: Score,
        seeds: Sequence[int] = (0, 1),
        sites: Sequence[str] = ("coast", "lake"),
        streams: Sequence[str] = ("iid", "temporal"),
        shifts: Sequence[tuple[str, int]] = (("none", 0),),
        **axes: Sequence[Any],
    ) -> pd.DataFrame:
        axes = axes or {"method": ("mean", "greedy")}
        rows = []
        for levels in itertools.product(*axes.values()):
            for seed, site, stream, (shift, severity) in itertools.product(seeds, sites, streams, shifts):
                where = dict(zip(axes, levels, strict=True)) | {
                    "seed": seed,
                    "site": site,
                    "stream": stream,
                    "shift": shift,
                    "severity": severity,
                }
                value = score(**where)
                rows.append(
                    where
                    | {"status": "done", "cohort": "tiny", "accuracy": value, "balanced_accuracy": value}
                    | {"validation": value, "ece": 1 - value}
                )
        return pd.DataFrame(rows)

    return make
