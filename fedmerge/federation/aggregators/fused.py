"""Fusion methods as aggregators: greedy soups and neuron matching in every round, not once at the end.

Each is the fusion method of its name (``fedmerge.merging``) with its options, over the updates of one round.
It asks the hospitals that trained in the round for validation scores, or for sums over their images, which
stay where they are. ``after`` corrects the fused network as it does after a fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, create_model

from fedmerge.federation.aggregators.contract import (
    AGGREGATORS,
    Aggregated,
    AggregationContext,
    Update,
    held,
)
from fedmerge.federation.packing import MINIMUM
from fedmerge.merging import FUSION, MergeResult, merge
from fedmerge.merging.matching.repair import After
from fedmerge.models.loading import network_of
from fedmerge.registry import Method
from fedmerge.seeding import derive
from fedmerge.tasks import MULTICLASS, TASKS

SCORED = ("greedy", "greedy-v1", "greedy-v2")
FROM_START = ("task-arithmetic", "ties", "dare", "model-stock")
SUMMED = ("hf", "kf", "rebasin", "regmean", "ot")

Images = Annotated[int, Field(ge=MINIMUM)]
_OWN: dict[str, dict[str, Any]] = {
    "scored": {"metric": (Literal["accuracy", "balanced_accuracy"], "accuracy")},
    "summed": {
        "images": (Images, 64),
        "split": (Literal["train", "val"], "train"),
        "after": (After, "none"),
    },
    "from start": {},
}


def _fused(name: str) -> Callable[..., Aggregated]:
    method = FUSION[name]

    def aggregate(updates: Iterable[Update], context: AggregationContext, **options: Any) -> Aggregated:
        known = held(updates)
        spec = context.model
        assert spec is not None
        sites = [update.site for update in known]
        own = {key: options[key] for key in options if key in method.options.model_fields}
        result = merge(
            [network_of(spec, update.state, update.site) for update in known],
            name,
            data=torch.zeros(2, spec.in_channels, spec.image_size, spec.image_size),
            names=sites,
            examples=[int(update.images) for update in known],
            batch_norm=context.batch_norm,
            seed=derive(context.seed, "aggregate", context.round),
            after=options.get("after", "none"),
            **_needed(name, known, context, options),
            **own,
        )
        return Aggregated(result.model.state_dict(), _decisions(sites, result))

    aggregate.__doc__ = f"{method.summary}\n\nIn every round, over the updates of its hospitals."
    return aggregate


def _needed(
    name: str, known: list[Update], context: AggregationContext, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the fusion method's further inputs: the start, or scores or sums of this round's hospitals."""
    if name in FROM_START:
        return {"start": context.start}
    hospitals, sites = context.hospitals, [update.site for update in known]
    assert hospitals is not None
    if name in SCORED:
        task = MULTICLASS if context.model is None else TASKS[context.model.task]
        metric = options.get("metric", task.headline)
        return {"score": lambda state: hospitals.score(state, sites, metric)}
    images = dict.fromkeys(sites, options.get("images", 64))
    states = {update.site: update.state for update in known}
    return {"statistics": hospitals.statistics(states, images, options.get("split", "train"))}


def _decisions(sites: list[str], result: MergeResult) -> tuple[dict[str, Any], ...]:
    """Return a row per hospital: its share, and the method's log entries about its model."""
    rows = {site: {"site": site, "share": result.coefficients[site]} for site in sites}
    for entry in result.decisions:
        row = rows.get(entry.get("model", ""), {})
        if not row.get("accepted"):  # greedy-v1 tries its start again
            row |= {key: value for key, value in entry.items() if key != "model"}
    return tuple(rows.values())


def _register(name: str, own: dict[str, Any]) -> None:
    method = FUSION[name]
    options = create_model(f"{name}-in-rounds", __base__=method.options, **own)
    title = f"{method.title}, every round"
    call = _fused(name)
    AGGREGATORS.add(Method(name, title, method.paper, "", "", method.needs, call, options, method.also))


for _kind, _names in (("scored", SCORED), ("summed", SUMMED), ("from start", FROM_START)):
    for _name in _names:
        _register(_name, _OWN[_kind])
