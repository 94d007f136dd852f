"""Write state dicts and job descriptions as Flower records; ``schema.reading`` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedmerge.errors import FedMergeError
from fedmerge.federation.arrays import lend
from fedmerge.federation.messages.reading import ARRAYS, JOB, METRICS, TEXTS
from fedmerge.federation.messages.text import clean
from fedmerge.models.state import State

_LONGEST_KIND = 200


def request_message(
    kind: str, node_id: int, group: str, job: dict[str, Any], state: State | ArrayRecord | None
) -> Message:
    """Return a request to one hospital: a job (JSON text in a ConfigRecord) and, if given, weights."""
    content = RecordDict({JOB: ConfigRecord({"job": json.dumps(job)})})
    if state is not None:
        content[ARRAYS] = state if isinstance(state, ArrayRecord) else lend(state)
    return Message(content, dst_node_id=node_id, message_type=kind, group_id=group)


def reply_message(
    message: Message,
    numbers: Mapping[str, float | int | list[int] | list[float]],
    state: State | None = None,
    texts: Mapping[str, str] | None = None,
) -> Message:
    """Return a hospital's reply: numbers and, if given, texts and weights.

    The weights are lent, so never write to them afterwards.
    """
    content = RecordDict({METRICS: MetricRecord(dict(numbers))})
    if texts:
        content[TEXTS] = ConfigRecord(dict(texts))
    if state is not None:
        content[ARRAYS] = lend(state)
    return Message(content, reply_to=message)


def reason_of(message: Message) -> str:
    """Return the reason of an error reply as one line of bounded length; our own errors are sentences.

    Flower writes an exception as ``<class 'a.B'>:<'text'>``.
    """
    given = message.error.reason or "unknown error"
    named, between, text = given.partition("'>:<'")
    if (
        not between
        or not named.startswith("<class '")
        or not text.endswith("'>")
        or len(named) > _LONGEST_KIND
    ):
        return clean(given) or "unknown error"
    kind, text = named.removeprefix("<class '").rpartition(".")[2], text.removesuffix("'>")
    return clean(text if kind == FedMergeError.__name__ else f"{kind}: {text}")
