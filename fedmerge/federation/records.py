"""State dicts and job descriptions as Flower records, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedmerge.errors import FedMergeError
from fedmerge.federation.arrays import borrow, lend
from fedmerge.models.state import State

ARRAYS, JOB, METRICS = "arrays", "config", "metrics"


def request(
    kind: str, node_id: int, group: str, job: dict[str, Any], state: State | ArrayRecord | None
) -> Message:
    """A message to one hospital: what to do (JSON text in a ConfigRecord) and, where needed, weights."""
    content = RecordDict({JOB: ConfigRecord({"job": json.dumps(job)})})
    if state is not None:
        content[ARRAYS] = state if isinstance(state, ArrayRecord) else lend(state)
    return Message(content, dst_node_id=node_id, message_type=kind, group_id=group)


def reply(message: Message, metrics: Mapping[str, float | int], state: State | None = None) -> Message:
    """A hospital's answer: numbers, and weights where it trained; they are lent, so not to be written to."""
    content = RecordDict({METRICS: MetricRecord(dict(metrics))})
    if state is not None:
        content[ARRAYS] = lend(state)
    return Message(content, reply_to=message)


def job_of(message: Message) -> dict[str, Any]:
    """The job that ``request`` packed."""
    return dict(json.loads(str(message.content.config_records[JOB]["job"])))


def state_of(message: Message) -> State:
    """The weights in a message, with the dtypes they had; perhaps lent, so not to be written to."""
    return borrow(message.content.array_records[ARRAYS])


def take_state(message: Message) -> State | None:
    """The weights in a reply, if it has any, freeing the message's own copy as they are read."""
    if ARRAYS not in message.content:
        return None
    return borrow(message.content.array_records[ARRAYS], keep=False)


def reason_of(message: Message) -> str:
    """Why a reply is an error. Flower's ``<class 'a.B'>:<'text'>`` is read; our own errors are sentences."""
    given = message.error.reason or "unknown error"
    found = re.fullmatch(r"<class '(?:[\w.]*\.)?(\w+)'>:<'(.*)'>", given, re.DOTALL)
    if found is None:
        return given
    kind, text = found.groups()
    return text if kind == FedMergeError.__name__ else f"{kind}: {text}"


def metrics_of(message: Message) -> dict[str, Any]:
    """The numbers in a reply."""
    return dict(message.content.metric_records[METRICS])
