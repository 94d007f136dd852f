"""What Model Fusion via Neuron Interpolation claims of ResNets compressed to narrower ones."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from benchmarks.studies.papers.claims import Claim, Rows, framed, pick
from benchmarks.studies.papers.compression import AFTER, DISTILLED, GRADIENT, KF, NARROW, WIDE

NAME = "neuron-interpolation"


def times(first: str, second: str, factor: float = 1.0) -> Callable[[Rows], pd.DataFrame]:
    """The accuracy of one way to the narrow network less ``factor`` times that of another."""

    def margin(rows: Rows) -> pd.DataFrame:
        one, other = (pick(rows.of(NAME), "compressed", "accuracy", case) for case in (first, second))
        return framed(one - factor * other)

    return margin


HERE = f"ResNet-18 of width {WIDE} into {NARROW}"
CLAIMS = [
    Claim("Table 7", "ResNets compressed to narrower ones: KF has twice the accuracy of distillation",
          f"accuracy, kf less twice distill; {HERE}", times(KF, DISTILLED, 2.0),
          key="ResNets compressed: KF above twice the accuracy of distillation"),
    Claim("Table 7", "the same for gradient KF", f"accuracy, kf-gradient less twice distill; {HERE}",
          times(GRADIENT, DISTILLED, 2.0)),
    Claim("Table 7", "KF is at least above distillation", f"accuracy, kf less distill; {HERE}",
          times(KF, DISTILLED)),
    Claim("Table 7", "distillation is better begun at KF's network than at random weights (our addition)",
          f"accuracy, distill from kf less distill; {HERE}", times(AFTER, DISTILLED),
          key="ResNets compressed: distillation begun at KF's network above one begun at random"),
]  # fmt: skip
