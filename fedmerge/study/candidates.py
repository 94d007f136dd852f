"""Everything that is tried at an unseen hospital: references, fused models, test-time methods."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fedmerge.errors import FedMergeError
from fedmerge.federation import Server
from fedmerge.merging import MergeResult, merge
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State
from fedmerge.models.zoo import build
from fedmerge.study.deployment import Candidate
from fedmerge.study.setup import Setup
from fedmerge.testtime import TESTTIME
from fedmerge.training import fit


def alone(setup: Setup, target: str) -> Iterator[Candidate]:
    """Each hospital's own model, as it is."""
    for name in setup.sources(target):
        yield Candidate(f"alone:{name}", "alone", setup.pool.model(name, setup.device))


def pooled(setup: Setup, target: str) -> Iterator[Candidate]:
    """One network trained on the union of the hospitals' images: what sharing images would give.

    The same start, the same options, and as many passes over the images as in the federation: rounds x
    epochs with the local options, then the fine-tuning.
    """
    images = setup.union(target)
    model = build(setup.plan.model, setup.seed)
    training = setup.experiment.training
    phases = [("pooled-fine-tune", training.fine_tune)]
    if training.rounds:
        together = training.local.model_copy(update={"epochs": training.rounds * training.local.epochs})
        phases.insert(0, ("pooled", together))
    setup.record.stage(f"seed {setup.seed}: pooled training", jobs=len(phases))
    try:
        for purpose, options in phases:
            result = fit(
                model,
                images.images,
                images.labels,
                options,
                normalise=setup.normalisation,
                seed=setup.seed,
                site=f"pooled for {target}",
                purpose=purpose,
                device=setup.device,
                progress=lambda done, total: setup.record.step("all images", done, total),
            )
    except FedMergeError as error:
        setup.record.failure(setup.seed, "pooled", target, str(error))
        return
    references = ModelPool(setup.folder / target / "references")
    setup.keep_in(
        references,
        "pooled",
        model.state_dict(),
        "pooled training",
        (),
        {"loss": result.losses[-1], "accuracy": result.accuracies[-1]},
    )
    yield Candidate("pooled", "pooled", model.eval())


def fuse(setup: Setup, server: Server, target: str) -> list[Candidate]:
    """Run the configured fusion methods on the models that go to ``target``.

    Validation scores come from the same hospitals through the federation; the target gives none. A method
    that cannot be run is recorded as a failure, the others go on.
    """
    sources = setup.sources(target)
    parents = setup.pool.subset(sources)
    examples = {member.name: member.examples for member in server.roster}
    kept = ModelPool(setup.folder / target / "fused")
    channels, size = setup.plan.model.in_channels, setup.plan.model.image_size
    fused = []

    def score(state: State) -> float:
        return server.score(state, sources, setup.experiment.selection)

    for entry in setup.experiment.fusion:
        setup.record.stage(f"seed {setup.seed}: fusion by {entry.label} for {target}")
        try:
            result = merge(
                parents,
                entry.method,
                data=torch.zeros(2, channels, size, size),
                score=score,
                examples=[examples[name] for name in sources],
                batch_norm=setup.plan.batch_norm,
                seed=setup.seed,
                **entry.options,
            )
        except FedMergeError as error:
            setup.record.failure(setup.seed, entry.label, target, str(error))
            continue
        setup.record.fusion(setup.seed, target, entry.label, result.decisions)
        if result.forward_passes == 1:
            _keep(setup, kept, entry.label, result, parents)
        fused.append(Candidate(entry.label, "fusion", result.model.to(setup.device), result.forward_passes))
    return fused


def adaptive(setup: Setup, target: str) -> Iterator[Candidate]:
    """The configured test-time methods, over the models that go to ``target``."""
    names = setup.sources(target)
    for entry in setup.experiment.testtime:
        models = [setup.pool.model(name, setup.device) for name in names]
        method = TESTTIME[entry.method]
        policy = {"batch_norm": setup.plan.batch_norm} if "batch_norm" in method.options.model_fields else {}
        node = method.call(models, **(policy | entry.options))
        yield Candidate(entry.label, "test-time", node)


def _keep(setup: Setup, pool: ModelPool, label: str, result: MergeResult, parents: ModelPool) -> None:
    hashes = tuple(parents.card(name).sha256 for name in parents.names)
    setup.keep_in(
        pool,
        label,
        result.model.state_dict(),
        result.method,
        hashes,
        {f"coefficient:{name}": a for name, a in result.coefficients.items()},
    )
