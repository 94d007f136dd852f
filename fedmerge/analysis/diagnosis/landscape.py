"""Landscapes: loss and accuracy on the plane through three models, and where other models lie beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedmerge.analysis.diagnosis.blends import Blends
from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Subject
from fedmerge.analysis.diagnosis.words import points, share
from fedmerge.errors import FedMergeError
from fedmerge.models.state import State
from fedmerge.registry import Needs

MEAN = "mean"
ROUNDING = 1e-6
"""Of the weights' length: models nearer to each other, or to a line, than this differ by rounding."""
NOT_MEASURED = {"loss": torch.nan, "accuracy": torch.nan}


@ANALYSES.method(
    "landscape",
    title="The plane through three models",
    paper="The Mean is the Mirage, arXiv 2602.21372",
    needs=Needs(individual_models=True, fusion_labels=True),
    misfits={},
)
def landscape(
    subject: Subject,
    *,
    through: tuple[str, ...] = (),
    grid: int = 15,
    margin: float = 0.3,
    anew: bool = False,
) -> Finding:
    """Measure loss and accuracy on a ``grid`` x ``grid`` of the plane through three models.

    ``through``: their names; by default the first three. The axes come from Gram-Schmidt over all parameters:
    u towards the second model, v towards the third, at right angles to u; the grid reaches ``margin`` of the
    triangle's extent beyond it. Running statistics are blended like weights (``anew``: taken from the
    images). Tables: ``plane`` (x, y, loss, accuracy) and ``marks``: the three models, the mean of the three
    and that of all, each of ``subject.extra`` and of ``subject.blends``, at their projections, with their
    distance from the plane. A mark's loss and accuracy are those of the model itself, not of its projection;
    blends are not measured. Raises FedMergeError where the three lie on one line.
    """
    names = _three(subject, through)
    states = [subject.states[subject.names.index(name)] for name in names]
    plane = _Plane.through([_row(state, subject.parameters) for state in states])
    xs, ys = _axis(plane.corners[:, 0], grid, margin), _axis(plane.corners[:, 1], grid, margin)
    cells = [(x, y) for y in ys for x in xs]
    found = Blends(subject, states, anew=anew).scores([plane.weights(x, y) for x, y in cells])
    rows = [
        {"x": x, "y": y, "loss": score.loss, "accuracy": score.accuracy}
        for (x, y), score in zip(cells, found, strict=True)
    ]
    frame = pd.DataFrame(rows)
    marks = _marks(subject, plane, dict(zip(names, states, strict=True)), anew)
    return Finding({"plane": frame, "marks": marks}, *_said(frame, marks, names))


@dataclass(frozen=True)
class _Plane:
    """A plane in weight space. origin: a row; u, v: unit rows. corners: 3 x 2, the models' coordinates."""

    origin: Tensor
    u: Tensor
    v: Tensor
    corners: np.ndarray

    @classmethod
    def through(cls, rows: Sequence[Tensor]) -> _Plane:
        first, second = rows[1] - rows[0], rows[2] - rows[0]
        length = first.norm()
        u = first / length.clamp(min=1e-300)
        rest = second - (second @ u) * u
        height = rest.norm()
        if min(float(length), float(height)) <= ROUNDING * float(rows[0].norm()):
            raise FedMergeError("the three models lie on one line, so there is no plane through them.")
        corners = [(0.0, 0.0), (float(length), 0.0), (float(second @ u), float(height))]
        return cls(rows[0], u, rest / height, np.array(corners))

    def weights(self, x: float, y: float) -> list[float]:
        """The weights of the three models, which sum to one, at a point of the plane."""
        third = y / self.corners[2, 1]
        second = (x - third * self.corners[2, 0]) / self.corners[1, 0]
        return [1 - second - third, second, third]

    def place(self, row: Tensor) -> tuple[float, float, float]:
        """The coordinates of a row's projection, and its distance from the plane."""
        step = row - self.origin
        x, y = step @ self.u, step @ self.v
        return float(x), float(y), float((step - x * self.u - y * self.v).norm())


def _three(subject: Subject, through: Sequence[str]) -> tuple[str, ...]:
    subject.check_alike()
    if len(subject.names) < 3:
        raise FedMergeError(f"a plane goes through three models, and there are {len(subject.names)}.")
    names = tuple(through) or subject.names[:3]
    unknown = [name for name in names if name not in subject.names]
    if len(names) != 3 or len(set(names)) < 3 or unknown:
        raise FedMergeError(
            f"a plane goes through three models, but these are named: {', '.join(names)}. Name three of "
            f"{', '.join(subject.names)}."
        )
    return names


def _row(state: Mapping[str, Tensor], keys: Sequence[str]) -> Tensor:
    return torch.cat([state[key].detach().flatten().double() for key in keys])


def _axis(corners: np.ndarray, grid: int, margin: float) -> list[float]:
    if grid < 3:
        raise FedMergeError(f"a grid of {grid} x {grid} points shows nothing: give at least 3.")
    low, high = float(corners.min()), float(corners.max())
    reach = margin * (high - low)
    return [float(each) for each in np.linspace(low - reach, high + reach, grid)]


def _marks(subject: Subject, plane: _Plane, three: Mapping[str, State], anew: bool) -> pd.DataFrame:
    every: dict[str, tuple[str, State]] = {name: ("model", state) for name, state in three.items()}
    every[MEAN] = ("mean", subject.mean())
    every |= {name: ("extra", state) for name, state in subject.extra.items()}
    blends = Blends(subject, [state for _, state in every.values()], anew=anew)
    rows = []
    for (name, (kind, state)), own in zip(every.items(), np.eye(len(every)).tolist(), strict=True):
        x, y, distance = plane.place(_row(state, subject.parameters).to(plane.origin.device))
        (score,) = blends.scores([own])
        rows.append(
            {
                "name": name, "kind": kind, "x": x, "y": y, "distance": distance,
                "loss": score.loss, "accuracy": score.accuracy,
            }
        )  # fmt: skip
    held = [_row(state, subject.parameters).to(plane.origin.device) for state in subject.states]
    sizes = [subject.states[0][key].numel() for key in subject.parameters]
    heads = [subject.parts[key] == "head" for key in subject.parameters]
    head = torch.tensor(heads).repeat_interleave(torch.tensor(sizes)).to(plane.origin.device)
    for name, (encoder, final) in subject.blends.items():
        weights = zip(encoder, final, held, strict=True)
        blend = torch.stack([torch.where(head, h, e) * row for e, h, row in weights]).sum(0)
        x, y, distance = plane.place(blend)
        rows.append({"name": name, "kind": "batch", "x": x, "y": y, "distance": distance} | NOT_MEASURED)
    return pd.DataFrame(rows)


def _said(frame: pd.DataFrame, marks: pd.DataFrame, names: Sequence[str]) -> tuple[str, float]:
    best = frame.iloc[int(frame["accuracy"].argmax())]
    mean = float(marks.loc[marks["name"] == MEAN, "accuracy"].iloc[0])
    gain = float(best["accuracy"]) - mean
    text = f"On the plane through {', '.join(names)} the best point has {share(best['accuracy'])} accuracy"
    if gain > 0.01:
        return f"{text}, {points(gain)} above the mean of all.", gain
    return f"{text}, the mean of all {share(mean)}: no point of it is better than the mean.", gain
