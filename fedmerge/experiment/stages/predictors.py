"""The predictors of an evaluation: references, fused models, test-time methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedmerge.analysis import fit_temperature, scores
from fedmerge.experiment.configuration.entries import MethodConfig
from fedmerge.experiment.kinds import EVALUATION, POOLED, START
from fedmerge.experiment.stages.evaluation import Predictor
from fedmerge.experiment.stages.fusion_data import gather, note_traffic
from fedmerge.experiment.stages.setup import FEDERATED, Setup
from fedmerge.experiment.stages.tune import make_node, tune_entry, tuning_log
from fedmerge.merging import MergeResult, merge
from fedmerge.models.pool import ModelPool
from fedmerge.models.predict import predict
from fedmerge.models.state import State
from fedmerge.models.zoo import build
from fedmerge.seeding import Draws
from fedmerge.tasks.scores import mean_where_defined
from fedmerge.training import fit

if TYPE_CHECKING:
    from fedmerge.federation import Server


def alone(setup: Setup, name: str) -> Predictor:
    """Return one hospital's own model, as it is; or the federated one, where they hand out none."""
    model = setup.pool.model(name, setup.device)
    return Predictor(f"alone:{name}", "alone", model, 1, _own_score(setup, name), own_training(setup, name))


def train_pooled(setup: Setup, target: str, references: ModelPool) -> None:
    """Train one network on the union of the hospitals' images, and keep it in ``references``.

    It is what sharing images would give: the same start and options, and as many passes over the images as
    in the federation: rounds x epochs with the local options, then the fine-tuning. FedProx's term, which
    holds hospitals together, is left out: there is one model.
    """
    images = setup.union(target)
    model = build(setup.plan.model, setup.seed).to(setup.device)
    training = setup.experiment.training
    phases = [] if training.fine_tune == "none" else [("pooled-fine-tune", training.fine_tune)]
    if training.rounds:
        epochs = training.rounds * training.local.epochs
        together = training.local.model_copy(update={"epochs": epochs, "proximal": 0.0})
        phases.insert(0, ("pooled", together))
    step = setup.record.stage(f"seed {setup.seed}: pooled training", jobs=len(phases))
    for purpose, options in phases:
        result = fit(
            model,
            images.images,
            images.labels,
            options,
            normalise=setup.normalise_union(target),
            draws=Draws(setup.seed, purpose=purpose, site=f"pooled for {target}"),
            progress=lambda done, total: step("all images", done, total),
        )
    numbers = {"loss": result.losses[-1], "accuracy": result.accuracies[-1]}
    numbers |= _pooled_numbers(setup, model.eval(), target)
    setup.keep_in(references, POOLED, model.state_dict(), "pooled training", (), numbers)


def pooled(setup: Setup, references: ModelPool) -> Predictor:
    """Return the predictor of ``train_pooled``'s network."""
    model = references.model(POOLED, setup.device)
    card = references.card(POOLED).metrics
    return Predictor(POOLED, "pooled", model, validation=card["validation"], training=card["accuracy"])


def fuse(
    setup: Setup, server: Server, target: str, entry: MethodConfig, start: State
) -> tuple[Predictor, MergeResult]:
    """Run one fusion method on the models that go to ``target``.

    start: the weights from which the hospitals fine-tuned; unused where each had its own. Validation scores
    come from the same hospitals through the federation; an unseen target gives none. A fused network is
    scored there, too; an ensemble gets the mean score of its sources.
    """
    sources = setup.sources(target)
    parents = setup.pool.subset(sources)
    examples = {member.name: member.examples for member in server.clients}
    examples |= {FEDERATED: sum(examples.values())}
    voters = None if sources == (FEDERATED,) else sources
    channels, size = setup.plan.model.in_channels, setup.plan.model.image_size

    def score(state: State) -> float:
        return server.score(state, voters, setup.experiment.selection)

    given = {"data": torch.zeros(2, channels, size, size)} | gather(setup, server, target, entry, start)
    result = merge(
        parents,
        entry.method,
        score=score,
        examples=[examples[name] for name in sources],
        batch_norm=setup.plan.batch_norm,
        seed=setup.seed,
        device=setup.device,
        **given,
        **entry.choices,
    )
    note_traffic(setup, target, entry, given)
    one = is_one(result.model, parents.state(sources[0]))
    validation = (
        server.validation(result.model.state_dict(), voters, setup.experiment.selection)
        if one
        else _own_scores(setup, sources)
    )
    passes, fused = result.forward_passes, result.model.to(setup.device)
    training = _sources_training(setup, target)
    return Predictor(entry.label, "fusion", fused, passes, validation, training), result


def is_one(model: nn.Module, parent: State) -> bool:
    """Whether a fused model is one network like its parents, and no ensemble, not even of one."""
    return model.state_dict().keys() == parent.keys()


def keep_fused(setup: Setup, pool: ModelPool, target: str, predictor: Predictor, result: MergeResult) -> None:
    """Keep a fused network in the target's pool; an ensemble is not one network and is not kept."""
    sources = setup.sources(target)
    if not is_one(result.model, setup.pool.state(sources[0])):
        return
    hashes = tuple(setup.pool.card(name).sha256 for name in sources)
    numbers = {f"coefficient:{name}": a for name, a in result.coefficients.items()}
    numbers["validation"] = predictor.validation
    setup.keep_in(pool, predictor.label, result.model.state_dict(), result.method, hashes, numbers)


def fused_network(setup: Setup, pool: ModelPool, target: str, label: str) -> Predictor:
    """Return the predictor of a network that ``keep_fused`` kept."""
    score, training = pool.card(label).metrics["validation"], _sources_training(setup, target)
    return Predictor(label, "fusion", pool.model(label, setup.device), validation=score, training=training)


def adapt(
    setup: Setup, target: str, entry: MethodConfig, references: ModelPool, federated: ModelPool | None = None
) -> Predictor:
    """Return a test-time method over the models that go to ``target``; its score is their mean.

    With ``start: pooled`` it gets the one network of ``train_pooled`` in ``references`` instead, and its
    score; with ``start: federated`` that of the rounds, in the pool ``federated``, which has no score. With
    ``tune`` an option is chosen on the sources first, and the choice recorded.
    """
    if entry.start == "pooled":
        start = pooled(setup, references)
        assert isinstance(start.model, nn.Module)
        node = make_node(setup, entry, {POOLED: start.model})
        return Predictor(entry.label, "test-time", node, 1, start.validation, start.training, (POOLED,))
    if entry.start == "federated":
        node = make_node(setup, entry, {FEDERATED: _rounds(setup, federated)})
        return Predictor(entry.label, "test-time", node, 1, math.nan, math.nan, (FEDERATED,))
    chosen = {} if entry.tune is None else _tuned(setup, target, entry)
    if entry.needs_federated:
        chosen = chosen | {"predict.anchor": _rounds(setup, federated)}
    names = setup.sources(target)
    node = make_node(setup, entry, {n: setup.pool.model(n, setup.device) for n in names}, chosen)
    score, training = _own_scores(setup, names), _sources_training(setup, target)
    return Predictor(entry.label, "test-time", node, validation=score, training=training)


def _rounds(setup: Setup, federated: ModelPool | None) -> nn.Module:
    """Return the network of the federated rounds."""
    assert federated is not None
    return federated.model(START, setup.device)


def _tuned(setup: Setup, target: str, entry: MethodConfig) -> dict[str, Any]:
    """Return the tuned option with its chosen value; the choice is a checkpoint of its own."""
    name = (EVALUATION, target, entry.label, "tuning")
    note = setup.checkpoints.load_if_done(*name)
    if note is None:
        with setup.checkpoints.save(*name) as note:
            found = tune_entry(setup, target, entry)
            setup.record.fusion(
                setup.seed, target, entry.label, tuning_log(found, setup.cohort.task.headline)
            )
            note[found.option] = found.chosen
    return note


def _own_score(setup: Setup, name: str) -> float:
    return setup.pool.card(name).metrics["validation"]


def _own_scores(setup: Setup, names: Sequence[str]) -> float:
    """Return the mean of the models' scores at their own hospitals, over those that define one."""
    return mean_where_defined(_own_score(setup, name) for name in names)


def own_training(setup: Setup, name: str) -> float:
    """Return a hospital's accuracy on its training images in its last epoch; NaN where it is not known.

    For the model of the rounds it is the hospitals' mean in the last round.
    """
    key = "training" if name == FEDERATED else "accuracy"  # its card's accuracy is in validation
    return setup.pool.card(name).metrics.get(key, math.nan)


def _sources_training(setup: Setup, target: str) -> float:
    return fmean(own_training(setup, name) for name in setup.sources(target))


def _pooled_numbers(setup: Setup, model: nn.Module, target: str) -> dict[str, float]:
    """Return a card's numbers on validation images (``Setup.keep``), here those of all hospitals."""
    split, task = setup.union(target, "val"), setup.cohort.task
    logits = predict(model, split.images, setup.normalise_union(target, "val"), device=setup.device)
    return {
        "validation": scores(logits, split.labels, task=task)[setup.experiment.selection],
        "temperature": fit_temperature(logits, split.labels, task),
    }
