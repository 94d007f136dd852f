"""The stage after the rounds: each hospital's own model, or the model of the rounds, into the pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedmerge.engine.rows import Row
from fedmerge.experiment.kinds import FINE_TUNE, START, TRAINING
from fedmerge.experiment.stages.setup import FEDERATED, Setup
from fedmerge.models.state import State

if TYPE_CHECKING:
    from fedmerge.federation import Server


def fine_tune(
    setup: Setup,
    server: Server,
    start: State,
    record_events: Callable[[], None] = lambda: None,
    rounds: Sequence[Row] = (),
) -> None:
    """Let each hospital train its own copy of ``start``, and put it into the pool with its validation scores.

    Without fine-tuning the model of the rounds goes into the pool instead. hear: records the strategy's new
    history and failures. rounds: the history of rounds that another server held. Each hospital is a
    checkpoint, in the order of ``server.clients``: one that has none, but comes before the last finished
    one, has failed.
    """
    if setup.plan.fine_tune is None and setup.checkpoints.load_if_done(TRAINING, FEDERATED) is None:
        with setup.checkpoints.save(TRAINING, FEDERATED):
            history = [*rounds, *server.strategy.history]
            setup.keep_federated(start, server.numbers(start), last_training(history))
    _keep_start(setup, start)
    clients = {member.name: member for member in server.clients}
    names = list(clients)
    done = [name for name in names if setup.checkpoints.load_if_done(TRAINING, FINE_TUNE, name) is not None]
    settled = names[: names.index(done[-1]) + 1] if done else []
    for name, state, metrics in server.fine_tune(start, settled, len(done)):
        with setup.checkpoints.save(TRAINING, FINE_TUNE, name):
            setup.keep(clients[name], state, metrics, server.own_numbers(state, name))
            record_events()


def _keep_start(setup: Setup, start: State) -> None:
    """Keep the model of the rounds in a pool of its own, where a test-time method asks for it."""
    wanted = any(entry.needs_federated for entry in setup.experiment.testtime)
    if wanted and setup.checkpoints.load_if_done(TRAINING, START) is None:
        with setup.checkpoints.save(TRAINING, START):
            setup.keep_in(setup.start, START, start, "federated rounds", (), {})


def last_training(history: Sequence[Row]) -> float:
    """Return the accuracy on training images in the last round that trained, a mean over all images."""
    rows = [row for row in history if row["phase"] == "train"]
    last = [row for row in rows if row["round"] == rows[-1]["round"]]
    images = sum(row["num-examples"] for row in last)
    return sum(row["accuracy"] * row["num-examples"] for row in last) / images if last else math.nan
