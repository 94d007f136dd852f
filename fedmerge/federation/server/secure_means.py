"""Results of secure sums: the model of a round, and the mean scores of all hospitals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedmerge.federation.checks import not_finite, update_norm
from fedmerge.federation.privacy.masked import (
    TRAINED,
    NoSum,
    decode_means,
    decode_scores,
    decode_weights,
    floats,
    scored,
    words_of_scores,
)
from fedmerge.federation.server.requests import Reply, Request
from fedmerge.federation.server.secure_round import Total, secure_total
from fedmerge.models.state import State
from fedmerge.tasks import TASKS

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

    from fedmerge.federation.server.client_manager import ClientManager

EVERYONE = "everyone"
"""The site in rows about all hospitals of a sum."""


@dataclass(frozen=True)
class SecureMean:
    """A round's mean model, the hospitals in it, and the means of their training numbers."""

    state: State
    names: tuple[str, ...]
    numbers: dict[str, float]


def words_of(start: State) -> int:
    """Return how many words a hospital sends in a round: for its training numbers, and its weights."""
    return 2 * (1 + len(TRAINED)) + sum(start[key].numel() for key in floats(start))


def collect(
    manager: ClientManager, grid: Grid, round: int, label: str, offers: Iterable[Reply], words: int
) -> Total:
    """Form a secure sum over a grid. Raises NoSum, and FedMergeError below the quorum."""
    known = list(offers)
    total = secure_total(
        round,
        label,
        known,
        words,
        lambda request: manager.usable(request, manager.send(grid, request.messages()), grid),
    )
    manager.log.check_quorum(round, "sum", len(total.names), len(known))
    return total


def mean_of(manager: ClientManager, total: Total, start: State) -> SecureMean:
    """Return the model from a sum. Raises NoSum if it is not finite, above ``max_norm``, or invalid."""
    plan, head = manager.plan, 2 * (1 + len(TRAINED))
    numbers = decode_means(total.words[:head], TRAINED)
    check_told(manager, total, numbers, "train")
    state = decode_weights(total.words[head:], start, int(numbers["num-examples"]), plan.batch_norm)
    wrong, longest = not_finite(state), plan.federation.max_norm
    if wrong:
        raise NoSum(f"the mean cannot be used: {wrong}")
    if longest is not None and (norm := update_norm(state, start)) > longest:
        raise NoSum(f"the mean update has norm {norm:.4g}, more than max_norm {longest:g}")
    return SecureMean(state, total.names, numbers)


def secure_scores(
    manager: ClientManager,
    grid: Grid,
    request: Request,
    replies: Iterable[Message],
    label: str,
    calibrate: bool = False,
) -> dict[str, Any]:
    """Return the hospitals' mean scores of a model from a secure sum. Raises NoSum."""
    task = TASKS[manager.plan.model.task]
    names = (*scored(task), "temperature") if calibrate else scored(task)
    offers = manager.replies(grid, request, replies)
    total = collect(manager, grid, request.round, label, offers, words_of_scores(names, task))
    numbers = decode_scores(total.words, names, task)
    check_told(manager, total, numbers, "val")
    return numbers


def check_told(
    manager: ClientManager, total: Total, numbers: dict[str, Any], split: Literal["train", "val"]
) -> None:
    """Raise NoSum if a sum's number of images differs from the numbers in the hospitals' greetings."""
    told = [client.held(split) for client in manager.clients.named(total.names)]
    if len(told) == len(total.names) and all(told) and sum(told) != numbers["num-examples"]:
        raise NoSum(
            f"the sum is over {numbers['num-examples']} images, but its hospitals said that they have "
            f"{sum(told)}: one of them counts otherwise"
        )
