"""Drift: how far models have turned away from each other, layer by layer, and what their mean keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Subject
from fedmerge.analysis.diagnosis.words import degrees, share
from fedmerge.errors import FedMergeError
from fedmerge.models.state import non_finite
from fedmerge.registry import Needs


@ANALYSES.method(
    "drift",
    title="Drift of the weights",
    paper="The Mean is the Mirage, arXiv 2602.21372",
    needs=Needs(individual_models=True),
    misfits={},
)
def drift(subject: Subject) -> Finding:
    """Measure angles between models, by layer and by hospital, and how much of their length the mean keeps.

    With w_i the parameters of model i in a layer, flattened, and w_0 those of the start:

        angle       acos(<w_i, w_j> / (|w_i| |w_j|)), the mean over pairs, in degrees task_angle  the same of
        w_i - w_0; NaN without a start, or where a model did not move directional 1 - cos(w_i - w_0, mean_j
        (w_j - w_0)), the mean over models scale       |w_i - w_0| / |w_0|, the mean over models; without a
        start |w_i| / mean_j |w_j| - 1, absolute retained    |mean_i w_i| / mean_i |w_i|: 1 for equal models,
        0.58 for three at right angles

    Tables: ``layers``, a row for each parameter, with its part (encoder, head), kind (weight, bias, norm) and
    depth; ``parts``, the same of all parameters of a part end to end; ``pairs``, angles of each two models by
    part; ``hospitals``, directional and scale drift of each model by part. Sums are in float64. Angles in raw
    parameters and around the start are both there, because the paper does not say which its figure shows.
    """
    subject.check_alike()
    for name, state in zip(subject.names, subject.states, strict=True):
        if broken := non_finite({key: state[key] for key in subject.parameters}):
            raise FedMergeError(
                f"'{broken[0]}' of '{name}' holds NaN or infinity: angles need finite weights."
            )
    grams = {key: _grams(subject, key) for key in subject.parameters}
    layers = [
        {"layer": key, "part": subject.parts[key], "kind": kind, "depth": depth} | _measures(*grams[key])
        for depth, (key, kind) in enumerate(_kinds(next(iter(subject.models.values()))))
    ]
    sums = {
        part: _summed([grams[k] for k in grams if subject.parts[k] == part]) for part in ("encoder", "head")
    }
    parts = [{"part": part} | _measures(*sums[part]) for part in sums]
    tables = {
        "parts": pd.DataFrame(parts),
        "layers": pd.DataFrame(layers),
        "pairs": pd.DataFrame(list(_pairs(subject.names, sums))),
        "hospitals": pd.DataFrame(list(_hospitals(subject.names, sums))),
    }
    return Finding(tables, sentence(tables), worst(tables["pairs"])["angle"])


def worst(pairs: pd.DataFrame) -> dict[str, Any]:
    """Return the row of the two models whose heads are furthest apart."""
    heads = pairs[pairs["part"] == "head"]
    return {str(key): value for key, value in heads.iloc[int(heads["angle"].fillna(-1.0).argmax())].items()}


def sentence(tables: dict[str, pd.DataFrame]) -> str:
    """Say which two heads are furthest apart, and what the mean keeps of the models' length."""
    parts, far = tables["parts"].set_index("part"), worst(tables["pairs"])
    kept = ", ".join(f"{share(row['retained'])} of the {part}'s length" for part, row in parts.iterrows())
    apart = f"The heads of {far['first']} and {far['second']} are {degrees(far['angle'])} apart"
    return f"{apart}, no two are further; the mean keeps {kept}."


Grams = tuple[Tensor, Tensor | None, float]
"""Inner products of the models' weights, M x M; of their steps from the start; the start's squared norm."""


def _grams(subject: Subject, key: str) -> Grams:
    rows = torch.stack([state[key].detach().flatten().double() for state in subject.states])
    if subject.start is None:
        return (rows @ rows.T).cpu(), None, 0.0
    begin = subject.start[key].detach().flatten().double().to(rows.device)
    steps = rows - begin
    return (rows @ rows.T).cpu(), (steps @ steps.T).cpu(), float(begin @ begin)


def _summed(grams: Sequence[Grams]) -> Grams:
    """The inner products of parameters end to end are the sums of those of each."""
    steps = [each[1] for each in grams]
    moved = (
        None
        if any(each is None for each in steps)
        else torch.stack([s for s in steps if s is not None]).sum(0)
    )
    return torch.stack([each[0] for each in grams]).sum(0), moved, sum(each[2] for each in grams)


def angles(gram: Tensor) -> Tensor:
    """Return the angles in degrees of M vectors from their inner products, M x M; NaN with a zero vector."""
    norms = gram.diagonal().sqrt()
    cosines = gram / (norms[:, None] * norms)
    return torch.rad2deg(cosines.clamp(-1, 1).acos())


def _measures(gram: Tensor, steps: Tensor | None, begin: float) -> dict[str, float]:
    norms = gram.diagonal().sqrt()
    first, second = torch.triu_indices(len(gram), len(gram), offset=1)
    turned, scaled = _moves(gram, steps, begin)
    return {
        "angle": angles(gram)[first, second].mean().item(),
        "task_angle": torch.nan if steps is None else angles(steps)[first, second].mean().item(),
        "directional": turned.mean().item(),
        "scale": scaled.mean().item(),
        "retained": (gram.mean().clamp(min=0).sqrt() / norms.mean()).item(),
    }


def _moves(gram: Tensor, steps: Tensor | None, begin: float) -> tuple[Tensor, Tensor]:
    """Directional and scale drift of each model."""
    norms = gram.diagonal().sqrt()
    if steps is None:
        return torch.full_like(norms, torch.nan), (norms / norms.mean() - 1).abs()
    lengths = steps.diagonal().sqrt()
    cosines = steps.mean(1) / (lengths * steps.mean().clamp(min=0).sqrt())
    return 1 - cosines.clamp(-1, 1), lengths / begin**0.5 if begin else torch.full_like(lengths, torch.nan)


def _pairs(names: Sequence[str], sums: dict[str, Grams]) -> Iterator[dict[str, Any]]:
    for part, (gram, steps, _) in sums.items():
        raw, around = angles(gram), None if steps is None else angles(steps)
        for i, j in combinations(range(len(names)), 2):
            task = torch.nan if around is None else float(around[i, j])
            yield {
                "part": part, "first": names[i], "second": names[j],
                "angle": float(raw[i, j]), "task_angle": task,
            }  # fmt: skip


def _hospitals(names: Sequence[str], sums: dict[str, Grams]) -> Iterator[dict[str, Any]]:
    for part, grams in sums.items():
        turned, scaled = _moves(*grams)
        for name, direction, scale in zip(names, turned.tolist(), scaled.tolist(), strict=True):
            yield {"part": part, "hospital": name, "directional": direction, "scale": scale}


def _kinds(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield each parameter's key with its kind: weight, bias, norm, or other (tokens, embeddings)."""
    for key, _ in model.named_parameters():
        prefix, _, name = key.rpartition(".")
        module = model.get_submodule(prefix)
        if "norm" in type(module).__name__.lower():
            yield key, "norm"
        else:
            yield key, next((kind for kind in ("bias", "weight") if kind in name), "other")
