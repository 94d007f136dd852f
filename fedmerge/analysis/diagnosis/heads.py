"""Whether heads fit encoders: every model's head on every encoder, and on the mean of the encoders."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Levels, Subject, batches, score
from fedmerge.analysis.diagnosis.words import chance, points, share
from fedmerge.models.copies import fill
from fedmerge.models.heads import apply_head, features
from fedmerge.models.modes import evaluating
from fedmerge.registry import Needs

MEAN = "mean"


@ANALYSES.method(
    "heads",
    title="Heads on other encoders",
    paper="The Mean is the Mirage, arXiv 2602.21372",
    needs=Needs(individual_models=True, fusion_labels=True),
    misfits={},
)
def heads(subject: Subject) -> Finding:
    """Measure each head on each encoder; the mean of the encoders and that of the heads are named ``mean``.

    Table ``heads``: encoder, head, loss, accuracy, that of the commonest class. Each encoder runs once: M + 1
    passes over the images. A head that fits its own encoder alone cannot be merged with others by averaging
    encoders; one that fails on the mean though it fits all encoders says that the mean of the encoders is at
    fault. With ``owners`` a row counts the images of all models alike.
    """
    subject.check_alike()
    merged = fill(subject.network(), subject.mean())
    networks = {**subject.models, MEAN: merged}
    rows = []
    for encoder, model in networks.items():
        seen = _features(model, subject)
        for head, owner in networks.items():
            with torch.no_grad(), evaluating(owner):
                found = score(apply_head(owner, subject.head_name, seen), subject.classes, subject.task)
            rows.append({"encoder": encoder, "head": head, "loss": found.loss, "accuracy": found.accuracy})
    frame = pd.DataFrame(rows).assign(commonest=subject.commonest, images=len(subject.classes))
    return Finding({"heads": frame}, *_said(frame))


@torch.no_grad()
def _features(model: torch.nn.Module, subject: Subject) -> Tensor:
    with evaluating(model):
        parts = [features(model, subject.head_name, x).clone() for x in batches(subject.pictures)]
    return torch.cat(parts)


def levels(frame: pd.DataFrame) -> Levels:
    """Return the levels of ``why``; the best is the best model."""
    own = frame[frame["encoder"] == frame["head"]].set_index("head")["accuracy"]
    models = own.drop(MEAN)
    beside = frame.iloc[0]
    return models.mean(), own[MEAN], models.max(), beside["commonest"], beside["images"]


def _said(frame: pd.DataFrame) -> tuple[str, float]:
    names = frame["encoder"] != MEAN, frame["head"] != MEAN
    own, both, _, *beside = levels(frame)
    other = frame[names[0] & names[1] & (frame["encoder"] != frame["head"])]["accuracy"].mean()
    moved = frame[~names[0] & names[1]]["accuracy"].mean()
    lost = float(own - moved)
    text = (
        f"A head has {share(own)} accuracy on its encoder{chance(own, *beside)}, {share(other)} on others "
        f"and {share(moved)} on the mean of the encoders, where the mean of the heads has {share(both)}"
    )
    if lost < 0.001:
        return f"{text}: a head loses nothing on the mean encoder.", lost
    return f"{text}: a head loses {points(lost)} on the mean encoder.", lost
