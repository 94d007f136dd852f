"""Greedy soups: add a model only if the hospitals' validation score does not fall."""

from __future__ import annotations

from typing import Any, Literal

from fedmerge.errors import FedMergeError
from fedmerge.merging.methods import FUSION, Context, Merged
from fedmerge.merging.parents import Parents
from fedmerge.models.state import State, average
from fedmerge.registry import Needs

Average = Literal["running", "half", "index"]


@FUSION.method(
    "greedy",
    title="Greedy soup",
    paper="Model soups, arXiv 2203.05482; Rethinking Weight-Averaged Model-merging, arXiv 2411.09263",
    needs=Needs(individual_models=True, score=True),
)
def greedy(
    parents: Parents,
    context: Context,
    *,
    order: Literal["score", "index"] = "score",
    begin: Literal["best", "first"] = "best",
    accept: Literal[">=", ">"] = ">=",
    average: Average = "running",
    again: bool = False,
) -> Merged:
    """Grow a soup model by model, keeping each candidate that scores at least as well as the soup so far.

    ``order``: the order of trial, by falling individual score (ties: pool order) or as they stand.
    ``begin``: with the best single model or the first one in the pool. ``accept``: what counts as no worse.
    ``average``: ``running`` is the mean of the members, (k S + theta) / (k + 1) with k members so far;
    ``half`` is (S + theta) / 2; ``index`` is (j S + theta) / (j + 1) with j the position in the pool.
    ``again``: in its turn the start is tried, too, once the soup holds another model.

    The defaults are the soup of Wortsman et al. The two variants in the released code of Rethinking
    Weight-Averaged Model-merging are ``greedy-v1`` and ``greedy-v2``. ``decisions`` logs every trial. In all
    of them batch-norm statistics follow the run's policy and integer buffers are the first member's, where
    the released code averages every entry.
    """
    if context.score is None:
        raise FedMergeError("greedy needs a validation score: pass score=, or data= with labels=.")
    singles = [context.score(state) for state in parents.states()]
    ranked = sorted(range(len(parents)), key=lambda i: -singles[i])
    first = ranked[0] if begin == "best" else 0
    queue = [i for i in (ranked if order == "score" else range(len(parents))) if again or i != first]
    members, weights, soup, best = [first], {first: 1.0}, parents.load(first), singles[first]
    log = [_decision(parents.names[first], singles[first], best, True)]
    for index in queue:
        if members == [index]:  # the start with itself is the start
            continue
        old, new = _shares(average, len(members), index)
        candidate = _candidate(parents, context, members, index, soup, old, new, average)
        score = context.score(candidate)
        accepted = score >= best if accept == ">=" else score > best
        log.append(_decision(parents.names[index], singles[index], score, accepted))
        if accepted:
            weights = {i: a * old / (old + new) for i, a in weights.items()}
            weights[index] = weights.get(index, 0.0) + new / (old + new)
            members, soup, best = [*members, index], candidate, score
    coefficients = {name: weights.get(i, 0.0) for i, name in enumerate(parents.names)}
    return Merged(parents.module(soup), coefficients, log)


@FUSION.method(
    "greedy-v1",
    title="Greedy soup, released variant 1",
    paper="Rethinking Weight-Averaged Model-merging, arXiv 2411.09263, released code",
    needs=Needs(individual_models=True, score=True),
)
def greedy_v1(parents: Parents, context: Context) -> Merged:
    """The released code's first greedy soup: begin with the best, then S <- (S + theta) / 2 in pool order.

    Faithful: the start is the best single model (the first among equals); all models are tried in the order
    of the pool, and one is accepted only if the score rises. Known faults, kept: halving gives the members
    the weights 1/2, 1/4, ... from the last to the first, so this is no mean of its members; and the start is
    not passed over when its turn comes, so that it may be added to what the soup is by then: with weights 0
    and 1 and the score -|w - 0.7| the soup goes from 1 to 0.5 and back to 0.75.
    """
    return greedy(parents, context, order="index", begin="best", accept=">", average="half", again=True)


@FUSION.method(
    "greedy-v2",
    title="Greedy soup, released variant 2",
    paper="Rethinking Weight-Averaged Model-merging, arXiv 2411.09263, released code",
    needs=Needs(individual_models=True, score=True),
)
def greedy_v2(parents: Parents, context: Context) -> Merged:
    """The released code's second greedy soup: begin with model 0, then S <- (j S + theta_j) / (j + 1).

    Faithful: pool order from the first model on, and a model is accepted only if the score rises. Known
    fault, kept: j is the position in the pool and not the number of members, so after a rejection the
    soup so far weighs more than its members' share.
    """
    return greedy(parents, context, order="index", begin="first", accept=">", average="index")


def _shares(rule: Average, n_members: int, index: int) -> tuple[float, float]:
    """Weights of the soup so far and of the newcomer."""
    return {"running": (float(n_members), 1.0), "half": (1.0, 1.0), "index": (float(index), 1.0)}[rule]


def _candidate(
    parents: Parents,
    context: Context,
    members: list[int],
    index: int,
    soup: State,
    old: float,
    new: float,
    rule: Average,
) -> State:
    if rule == "running":  # from the members themselves, so that rounding errors do not add up
        return average(parents.states([*members, index]), None, batch_norm=context.batch_norm)
    return average([soup, parents.load(index)], [old, new], batch_norm=context.batch_norm)


def _decision(name: str, alone: float, score: float, accepted: bool) -> dict[str, Any]:
    return {"model": name, "score_alone": alone, "score_with": score, "accepted": accepted}
