"""What Rethinking Weight-Averaged Model-merging claims of depth with batch norm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.studies.papers.claims import MARGIN, Claim, Rows, less
from benchmarks.studies.papers.depths import ANEW, ENSEMBLE, MEAN

NAME = "rethinking"
SPARED = 0.01
"""What the gap may shrink by in ten layers and count as not shrinking: a point."""


def slope(case: str) -> Callable[[Rows], pd.DataFrame]:
    """How the ensemble's lead over a case grows in ten layers, least squares over depths, plus ``SPARED``."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.of(NAME)
        frame = frame[(frame["part"] == "depth") & (frame["metric"] == "accuracy")]
        if frame.empty:
            return pd.DataFrame(columns=MARGIN)
        wide = frame.pivot_table(index=["setting", "seed", "x"], columns="case", values="value")
        gap = (wide[ENSEMBLE] - wide[case]).unstack("x").dropna()
        fitted = [10 * np.polyfit(gap.columns.to_numpy(float), each, 1)[0] for each in gap.to_numpy()]
        return pd.DataFrame({"value": fitted}, index=gap.index).add(SPARED).reset_index()[MARGIN]

    return margin


CLAIMS = [
    Claim("Fig. 3", "with batch norm it does not shrink with depth: by at most a point in ten layers",
          "slope of the gap by depth (4, 9, 14, 17), in points for ten layers, plus a point; 3 models",
          slope(MEAN), key="with batch norm: what the gap grows by in ten layers, plus a point"),
    Claim("Fig. 3", "the same with batch-norm statistics measured anew on the training images (our addition)",
          "the same", slope(ANEW)),
    Claim("Fig. 3",
          "new batch-norm statistics make the soup better, so they are part of the gap (our addition)",
          "accuracy, mean with statistics measured anew less mean; mean over depths",
          less(NAME, "depth", "accuracy", ANEW, MEAN)),
]  # fmt: skip
