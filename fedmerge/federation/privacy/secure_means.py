"""What a federation makes of secure sums: the model of a round, and scores of all hospitals together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedmerge.federation.checks import not_finite, update_norm
from fedmerge.federation.privacy.masked import (
    SCORED,
    TRAINED,
    NoSum,
    decode_means,
    decode_weights,
    floats,
)
from fedmerge.federation.privacy.secure_round import Total, secure_total
from fedmerge.federation.requests import Reply, Request
from fedmerge.models.state import State

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

    from fedmerge.federation.client_manager import ClientManager

EVERYONE = "everyone"
"""The site of a row that is about all hospitals of a sum."""


@dataclass(frozen=True)
class SecureMean:
    """A round's model, whose updates it is the mean of, and the means of what they say of their training."""

    state: State
    names: tuple[str, ...]
    numbers: dict[str, float]


def words_of(start: State) -> int:
    """How many numbers a hospital sends of a round: what it says of its training, and its weights."""
    return 2 * (1 + len(TRAINED)) + sum(start[key].numel() for key in floats(start))


def collect(
    manager: ClientManager, grid: Grid, round: int, label: str, offers: Iterable[Reply], words: int
) -> Total:
    """A secure sum over a grid. Raises NoSum where there is none, FedMergeError below the quorum."""
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
    """The model that a sum gives. Raises NoSum for one that cannot be: not finite, too long, or nonsense."""
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
    """The means of what the hospitals of a question say of a model. Raises NoSum."""
    names = (*SCORED, "temperature") if calibrate else SCORED
    offers = manager.replies(grid, request, replies)
    total = collect(manager, grid, request.round, label, offers, 2 * (1 + len(names)))
    numbers = decode_means(total.words, names)
    check_told(manager, total, numbers, "val")
    return numbers


def check_told(
    manager: ClientManager, total: Total, numbers: dict[str, Any], split: Literal["train", "val"]
) -> None:
    """Raise NoSum where the hospitals have told of their images when they came, and the sum is of others."""
    told = [client.held(split) for client in manager.clients.named(total.names)]
    if len(told) == len(total.names) and all(told) and sum(told) != numbers["num-examples"]:
        raise NoSum(
            f"the sum is over {numbers['num-examples']} images, but its hospitals said that they have "
            f"{sum(told)}: one of them counts otherwise"
        )
