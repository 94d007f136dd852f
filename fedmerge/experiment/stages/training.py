"""The stages that train: the rounds, each hospital's own fine-tuning, pooled training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedmerge.engine.rows import Row
from fedmerge.experiment.kinds import POOLED, ROUNDS
from fedmerge.experiment.stages.predictors import train_pooled
from fedmerge.experiment.stages.stage import REFERENCES, Note, Stage

if TYPE_CHECKING:
    from fedmerge.federation import Server


def rounds(stage: Stage) -> Note:
    """Hold the rounds; each is in the journal before the next begins."""

    def programme(server: Server) -> None:
        try:
            stage.keep_rounds(server, stage.begin(server))
        finally:
            stage.record_events(server)

    stage.setup.with_server(programme)
    return {}


def fine_tune(stage: Stage) -> Note:
    """Let each hospital train its own copy of the model of the rounds, and put it into the pool.

    Without fine-tuning the model of the rounds goes into the pool instead. Each hospital is a checkpoint, in
    the order of ``server.clients``: one that has none, but comes before the last finished one, has failed.
    The note has the training images per class that each hospital told; one that hides them is left out.
    """
    setup, note = stage.setup, Note()

    def programme(server: Server) -> None:
        tally = setup.cohort.task.tally
        note["told"] = {
            client.name: tally(client.class_counts, client.examples).tolist()
            for client in server.clients
            if any(client.class_counts)
        }
        start = stage.begin(server)
        try:
            if setup.plan.fine_tune is None:
                setup.keep_federated(
                    start, server.numbers(start), last_training(stage.left_by(ROUNDS).get("history", []))
                )
            clients = {client.name: client for client in server.clients}
            names, words = list(clients), stage.step.words
            done = [name for name in names if setup.checkpoints.load_if_done(*words, name) is not None]
            settled = names[: names.index(done[-1]) + 1] if done else []
            for name, state, metrics in server.fine_tune(start, settled, len(done)):
                with setup.checkpoints.save(*words, name):
                    setup.keep(clients[name], state, metrics, server.own_numbers(state, name))
                    stage.record_events(server)
        finally:
            stage.record_events(server)

    setup.with_server(programme)
    return note


def pooled(stage: Stage) -> Note:
    """Train one network on the union of the images."""
    with stage.isolated(POOLED):
        train_pooled(stage.setup, stage.step.target, stage.pool(REFERENCES))
    return {}


def last_training(history: Sequence[Row]) -> float:
    """Return the accuracy on training images in the last round that trained, a mean over all images."""
    rows = [row for row in history if row["phase"] == "train"]
    last = [row for row in rows if row["round"] == rows[-1]["round"]]
    images = sum(row["num-examples"] for row in last)
    return sum(row["accuracy"] * row["num-examples"] for row in last) / images if last else math.nan
