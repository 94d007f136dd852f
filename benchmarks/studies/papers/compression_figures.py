"""The figure on ResNets compressed to narrower ones."""

from __future__ import annotations

from benchmarks.pages import Picture
from benchmarks.studies.papers.claims import Rows
from benchmarks.studies.papers.compression import AFTER, DISTILLED, GRADIENT, KF, LABELS, NARROW, WIDE
from benchmarks.studies.papers.drawing import dots, of, share
from fedmerge.reports.figures.style import Caption


def compressed(rows: Rows) -> Picture:
    """Accuracy of each way to the narrow network, beside its parents."""
    frame = of(rows.of("neuron-interpolation"), "compressed", "accuracy")
    names = {
        "parents": "parents, mean", "ensemble": "ensemble of parents", KF: "kf", GRADIENT: "kf-gradient",
        DISTILLED: "distilled from random", AFTER: "distilled from kf", LABELS: "narrow, trained by label",
    }  # fmt: skip
    names = {case: name for case, name in names.items() if case in set(frame["case"])}
    by = frame.groupby("case")["value"].mean()
    title = (
        f"ResNet-18 of width {WIDE} into {NARROW}: kf has {share(by[KF])} accuracy, distillation "
        f"{share(by[DISTILLED])}, training by label {share(by[LABELS])}"
    )
    made = dots(frame, title, "accuracy, % (diamond: mean over seeds)", cases=names)
    return made, Caption(title, "The same images, without labels, for fusion and distillation.")
