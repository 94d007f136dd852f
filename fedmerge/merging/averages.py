"""Averages of weights."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from fedmerge.errors import FedMergeError
from fedmerge.merging.checks import check_finite, summation_order
from fedmerge.merging.methods import FUSION, Context, Merged
from fedmerge.merging.parents import Parents
from fedmerge.models.entries import kinds, running_pairs
from fedmerge.models.heads import find_head, group_of
from fedmerge.models.state import State, average, non_finite, total_of
from fedmerge.registry import Needs

Weights: TypeAlias = Literal["uniform", "samples"] | list[float]
MetricWeights: TypeAlias = Literal["uniform", "samples", "metric"] | list[float]


def _needs(options: dict[str, Any]) -> Needs:
    groups = options["groups"] or {}
    return Needs(
        score="metric" in [w for w in (options["weights"], *groups.values()) if isinstance(w, str)],
        features=not groups.keys().isdisjoint(("encoder", "head")),
    )


@FUSION.method(
    "mean",
    title="Mean merging",
    paper="FedAvg, arXiv 1602.05629; Model soups (uniform soup), arXiv 2203.05482",
    also=_needs,
)
def mean(
    parents: Parents,
    context: Context,
    *,
    weights: MetricWeights = "uniform",
    groups: dict[str, MetricWeights] | None = None,
) -> Merged:
    """Average the weights of all models: theta = sum_m a_m theta_m, with sum_m a_m = 1.

    ``weights``: ``uniform`` (a_m = 1/M), ``samples`` (a_m in proportion to hospital m's training images),
    ``metric`` (in proportion to its own validation score), or one number a model.

    ``groups``: other weights for some entries, for instance ``{"head": "metric", "layer4": [1, 0, 0]}``. A
    key is ``encoder``, ``head`` (found by running the model on ``context.example``), or a regular expression
    searched for in the entries' names; the first that matches wins, and the other entries take ``weights``.
    ``coefficients`` are those of ``weights``; ``decisions`` has one dict a group.

    Sums are taken in float64, one model at a time, in an order that depends on what the models hold
    (:func:`~fedmerge.merging.checks.summation_order`): permuting them changes no bit of what is summed.
    Integer entries must be equal, but for counters, which are the first model's; batch-norm statistics follow
    the run's policy, a running variance in the group of its mean. One model alone, and a model with itself,
    stay as they are, bit for bit (float32 and narrower).

    Raises FedMergeError for weights that do not fit, a group that matches nothing, and a parent that holds
    NaN or infinity.
    """
    scores = _Scores(parents, context)
    raw = scores.weights(weights)
    chosen = {name: scores.weights(value) for name, value in (groups or {}).items()}
    members = _members(parents, context, list(chosen))
    state: State = {}
    log = []
    for name, entries in members.items():
        own = chosen.get(name, raw)
        state |= mean_of(parents, context, own, entries)
        if name:
            log.append({"group": name, "entries": len(entries), "coefficients": _by_name(parents, own)})
    if non_finite(state):
        check_finite(parents)
    return Merged(parents.module(state), _by_name(parents, raw), log)


def parent_weights(parents: Parents, weights: Weights) -> list[float]:
    """One number a model, not yet divided by their sum; raises FedMergeError where they do not fit."""
    if weights == "uniform":
        return [1.0] * len(parents)
    if weights == "samples":
        if parents.examples is None:
            raise FedMergeError(
                "weights: samples needs the number of training images of each model: pass examples=[...]."
            )
        return _usable([float(n) for n in parents.examples])
    if len(weights) != len(parents):
        raise FedMergeError(f"{len(weights)} weights were given for {len(parents)} models: give one each.")
    return _usable([float(weight) for weight in weights])


def normalised(weights: Sequence[float]) -> list[float]:
    """``weights`` divided by their sum."""
    total = total_of(weights)
    return [weight / total for weight in weights]


def mean_of(parents: Parents, context: Context, weights: Sequence[float], entries: Sequence[str]) -> State:
    """The weighted mean of some ``entries`` of all models; what is not summed comes from the first model."""
    order = [i for i in summation_order(parents, weights) if weights[i] != 0]
    first = _part(parents, 0, entries)
    means: State = {}
    for keys in _halves(first):
        parts = (_part(parents, i, keys) for i in order)
        means |= average(parts, [weights[i] for i in order], batch_norm=context.batch_norm)
    kept = [key for pair in running_pairs(entries) for key in pair] if context.batch_norm == "first" else []
    copied = {key for key, kind in kinds(first).items() if kind in ("counter", "fixed")} | set(kept)
    return means | {key: first[key].detach().clone() for key in copied}


def _halves(state: State) -> list[list[str]]:
    """The entries in two halves by bytes, none of them empty; a running variance is in the half of its mean.

    One half is summed and rounded before the other is begun: float64 sums of all entries would take the
    memory of two models, those of a half take that of one. Every file is opened twice and read once.
    """
    variance_of = dict(running_pairs(state))
    variances = set(variance_of.values())
    half = sum(value.nbytes for value in state.values()) / 2
    first: list[str] = []
    second: list[str] = []
    size = 0
    for key in (key for key in state if key not in variances):
        together = [key, variance_of[key]] if key in variance_of else [key]
        (first if size < half else second).extend(together)
        size += sum(state[member].nbytes for member in together)
    return [keys for keys in (first, second) if keys]


def _part(parents: Parents, index: int, entries: Sequence[str]) -> State:
    state = parents.load(index)
    return {key: state[key] for key in entries}


class _Scores:
    """Turns ``weights`` into numbers; the models are scored once, when ``metric`` is first asked for."""

    def __init__(self, parents: Parents, context: Context) -> None:
        self.parents = parents
        self.context = context
        self.known: list[float] = []

    def weights(self, weights: MetricWeights) -> list[float]:
        if weights != "metric":
            return parent_weights(self.parents, weights)
        if self.context.score is None:
            raise FedMergeError(
                "weights: metric needs a validation score: pass score=, or data= with labels=."
            )
        self.known = self.known or [float(self.context.score(state)) for state in self.parents.states()]
        if not all(score >= 0 for score in self.known):
            raise FedMergeError(
                f"weights: metric needs scores that are not negative, but they are {self.known}: "
                "score by accuracy or the like, or give the weights as numbers."
            )
        return _usable(self.known)


def _usable(weights: list[float]) -> list[float]:
    total_of(weights)
    return weights


def _by_name(parents: Parents, weights: Sequence[float]) -> dict[str, float]:
    return dict(zip(parents.names, normalised(weights), strict=True))


def _members(parents: Parents, context: Context, groups: list[str]) -> dict[str, list[str]]:
    """The entries of each group, in order; those of no group stand under the empty name."""
    keys = list(parents.load(0))
    inside = {group: _matching(parents, context, group, keys) for group in groups}
    members: dict[str, list[str]] = {group: [] for group in ["", *groups]}
    means = {variance: mean for mean, variance in running_pairs(keys)}
    for key in keys:
        asked = means.get(key, key)
        members[next((group for group in groups if asked in inside[group]), "")].append(key)
    return members


def _matching(parents: Parents, context: Context, group: str, keys: list[str]) -> set[str]:
    if group in ("encoder", "head"):
        if context.example is None:
            raise FedMergeError(f"the group '{group}' is found by running the model on a batch: pass data=.")
        head = find_head(parents.template, context.example)
        return {key for key in keys if group_of(key, head) == group}
    try:
        found = {key for key in keys if re.search(group, key)}
    except re.error as error:
        raise FedMergeError(f"the group '{group}' is not a regular expression: {error}.") from None
    if not found:
        close = difflib.get_close_matches(group, keys, n=3, cutoff=0.0)
        raise FedMergeError(
            f"the group '{group}' matches no entry of the models. The nearest names: {', '.join(close)}. "
            "Groups are 'encoder', 'head', or a regular expression for names."
        )
    return found
