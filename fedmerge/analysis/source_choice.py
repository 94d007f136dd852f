"""Did the coefficients choose well? Their rank correlation with how good each source is at the target."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedmerge.errors import FedMergeError

ALONE = "alone:"
CELL = ("cohort", "model", "seed", "site", "stream")


def source_choice(
    coefficients: pd.DataFrame,
    table: pd.DataFrame,
    metric: str = "balanced_accuracy",
    within: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare coefficients with the sources' own scores, cell by cell.

    coefficients: of a run or a study, one row a batch and source, with columns method, site, stream, source
    and encoder. table: its results; each hospital alone must be in it. One row per method and cell (of the
    columns of ``CELL`` that both have, and of ``within``, the axes of a study), under no scanner shift:

    sources: M. correlation: Spearman's rank correlation over the sources of the mean coefficient of a batch
    (encoder) and the score alone; 1: better sources get more, 0: no relation, -1: worse get more; NaN where
    all of one are alike. gain: what drawing a source by the coefficients would score above drawing one
    evenly. regret: how far it is below the best source.

    It looks at the target's labels: it explains a method and chooses none. Raises FedMergeError for tables
    without these columns, and where the hospitals alone were not measured.
    """
    lacking = [c for c in ("method", "site", "stream", "source", "encoder") if c not in coefficients]
    lacking += [c for c in ("method", "site", "stream", metric) if c not in table]
    if lacking:
        raise FedMergeError(f"the tables lack '{lacking[0]}': give a run's coefficients and its results.")
    cell = [name for name in (*CELL, *within) if name in coefficients and name in table]
    alone = table[table["method"].astype(str).str.startswith(ALONE)]
    if "severity" in alone:
        alone = alone[alone["severity"] == 0]
    if "severity" in coefficients:
        coefficients = coefficients[coefficients["severity"] == 0]
    if alone.empty:
        raise FedMergeError("the hospitals alone are not in the results: add alone to the references.")
    named = alone.assign(source=alone["method"].str.removeprefix(ALONE))
    scores = named.groupby([*cell, "source"])[metric].mean().rename("score").reset_index()
    means = coefficients.groupby([*cell, "method", "source"])["encoder"].mean().reset_index()
    both = means.merge(scores, on=[*cell, "source"])
    rows = [
        dict(zip([*cell, "method"], key, strict=True)) | _judged(group["encoder"], group["score"])
        for key, group in both.groupby([*cell, "method"], sort=False)
    ]
    return pd.DataFrame(rows, columns=[*cell, "method", "sources", "correlation", "gain", "regret"])


def _judged(encoder: pd.Series, score: pd.Series) -> dict[str, float]:
    from scipy.stats import spearmanr  # slow to import, and seldom needed

    weights, values = encoder.to_numpy(dtype=float), score.to_numpy(dtype=float)
    alike = len(values) < 2 or np.ptp(weights.round(9)) == 0 or np.ptp(values) == 0
    rho = math.nan if alike else float(spearmanr(weights.round(9), values).statistic)
    drawn = float(weights @ values / weights.sum())
    return {
        "sources": len(values),
        "correlation": rho,
        "gain": drawn - float(values.mean()),
        "regret": float(values.max()) - drawn,
    }
