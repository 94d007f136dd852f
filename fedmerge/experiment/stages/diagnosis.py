"""The diagnosis of a run's hospitals: whether their models can be averaged, and why."""

from __future__ import annotations

from typing import Any

import torch

from fedmerge.analysis.diagnosis import Subject, diagnose
from fedmerge.analysis.diagnosis.blends import has_batch_norm
from fedmerge.analysis.diagnosis.rows import rows_of
from fedmerge.blame import blamed, exits_named
from fedmerge.data.images.images import Split, concat
from fedmerge.experiment.stages.setup import Setup
from fedmerge.experiment.stages.stage import Note, Stage
from fedmerge.models.state import State
from fedmerge.plugin_code import said_of
from fedmerge.storage.files import DiskError

MOST_MODELS = 8
"""Hospitals that are looked at, evenly spaced in their order."""
POINTS, MOST_IMAGES, LEAST_IMAGES = 11, 256, 32
SHARE = 0.02
"""Of the training's passes: what the quick diagnosis may spend on a path, a backward pass counting as two."""


def diagnose_pool(stage: Stage) -> Note:
    """Diagnose the hospitals' own models, as ``diagnose`` in the experiment says.

    ``quick``: drift, the path between the two models whose heads are furthest apart, and the mean of all,
    over as many validation images as ``SHARE`` of the training's passes allows; without a path where these
    are fewer than 32. ``full``: all validation images, all pairs of models, heads on other encoders, and the
    plane through three models. A diagnosis that fails is a sentence in the table, and nothing else of the run
    changes.
    """
    setup = stage.setup
    if len(setup.pool) >= 2:
        setup.with_server(lambda server: _diagnose(setup, stage.begin(server), stage.federation))
    return {}


def _diagnose(setup: Setup, start: State, federation: str) -> None:
    """start: the weights from which the hospitals fine-tuned."""
    setup.record.stage(f"seed {setup.seed}: diagnosis of {len(setup.pool)} models")
    try:
        with exits_named("the diagnosis"):
            found = diagnose(*_asked(setup, start))
    except DiskError:
        raise
    except Exception as error:
        reason = blamed(error, "the diagnosis") or f"the diagnosis failed: {said_of(error)}."
        found = {}, {"drift": reason}
    where = {"seed": setup.seed, "federation": federation}
    setup.record.diagnosis += [where | row for row in rows_of(*found)]


def _asked(setup: Setup, start: State) -> tuple[Subject, list[str], dict[str, dict[str, Any]]]:
    """Return the subject, the analyses and their options."""
    full = setup.experiment.diagnose == "full"
    every = setup.pool.names
    names = [
        every[i * len(every) // min(MOST_MODELS, len(every))] for i in range(min(MOST_MODELS, len(every)))
    ]
    models = {name: setup.pool.model(name, setup.device) for name in names}
    parts = [(i, setup.cohort[name].val) for i, name in enumerate(names) if not setup.cohort[name].remote]
    known: dict[str, Any] = {
        "start": start if setup.experiment.training.start == "shared" else None,
        "seed": setup.seed,
    }
    bare = Subject.of(models, **known)
    each = _images(setup, bare, [part for _, part in parts], full)
    if not each:
        return bare, ["drift"], {}
    few = [(names[i], part.select(torch.arange(min(each, len(part))))) for i, part in parts]
    labels = concat([part for _, part in few]).labels
    images = torch.cat([setup.normalise(name)(part.images) for name, part in few])
    owners = torch.cat([torch.full((min(each, len(part)),), i) for i, part in parts])
    subject = Subject.of(models, images, labels, owners=owners, **known)
    if full:
        return subject, ["drift", "barriers", "heads", "landscape"], {}
    return subject, ["drift", "barriers"], {"barriers": {"points": POINTS, "pairs": 1, "to_mean": False}}


def _images(setup: Setup, subject: Subject, parts: list[Split], full: bool) -> int:
    """Return how many images of each hospital are looked at; 0: none."""
    here = [part for part in parts if len(part)]
    if not here:
        return 0
    if full:
        return max(map(len, here))
    training = setup.experiment.training
    own = 0 if training.fine_tune == "none" else training.fine_tune.epochs
    epochs = training.rounds * training.local.epochs + own
    seen = epochs * sum(len(setup.cohort[name].train) for name in setup.members)
    points = (POINTS + 1) * (2 if has_batch_norm(subject) else 1)  # and the mean of all
    images = min(int(SHARE * 3 * seen) // points, MOST_IMAGES)
    return 0 if images < LEAST_IMAGES else -(-images // len(here))
