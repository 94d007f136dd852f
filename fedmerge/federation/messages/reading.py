"""Parse a message by its declaration: the result is typed, and everything else is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from pydantic import BaseModel, ValidationError

from fedmerge.errors import FedMergeError
from fedmerge.federation.messages.fields import Told
from fedmerge.federation.messages.table import MESSAGES
from fedmerge.federation.messages.tensors import Refused, Tensors, named
from fedmerge.federation.messages.text import clean
from fedmerge.models.state import State

ARRAYS, JOB, METRICS, TEXTS = "arrays", "config", "metrics", "texts"
LONGEST_JOB = 4 * 2**20
"""The most letters of a job; the longest jobs list the images or the keys of every hospital."""

M = TypeVar("M", bound=BaseModel)
J = TypeVar("J", bound=Told)


def read_job(message: Message, kind: type[J]) -> J:
    """Read the job in a message. Raises Refused unless it is of this kind and as declared."""
    records = _records(message, {JOB: ConfigRecord, ARRAYS: ArrayRecord})
    declared = MESSAGES.get(message.metadata.message_type)
    if declared is None or not issubclass(declared.job, kind):
        raise Refused(f"a message of type '{named(message.metadata.message_type)}' is no {kind.__name__}")
    config = records.get(JOB, {})
    text = config.get("job")
    if len(config) != 1 or not isinstance(text, str):
        raise Refused("the message has no job in it")
    if len(text) > LONGEST_JOB:
        raise Refused(f"the job has {len(text):,} letters, more than {LONGEST_JOB:,}")
    try:
        json.loads(text, object_pairs_hook=_no_name_twice, parse_constant=_no_constant)
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise Refused(f"the job cannot be taken: {sentence(error)}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"the job cannot be read ({clean(str(error), 200)})") from None
    except FedMergeError as error:
        raise Refused(*error.args) from None


def job_of(message: Message) -> dict[str, Any]:
    """Return the raw job in a message, after checking it against the message's type. Raises Refused."""
    declared = MESSAGES.get(message.metadata.message_type)
    if declared is None:
        raise Refused(f"there is no message of type '{named(message.metadata.message_type)}'")
    read_job(message, declared.job)
    return dict(json.loads(str(message.content[JOB]["job"])))


def has_tensors(message: Message) -> bool:
    """Check whether a job has arrays."""
    return bool(message.has_content() and message.content.get(ARRAYS))


def read_tensors(message: Message, tensors: Tensors) -> State:
    """Read the weights in a job, with their dtypes. They may be lent: never write to them."""
    records = _records(message, {JOB: ConfigRecord, ARRAYS: ArrayRecord})
    return tensors.read(records.get(ARRAYS)) or {}


def read_reply(message: Message, kind: type[M]) -> tuple[M, ArrayRecord | None]:
    """Read the fields of a reply; return them and its raw arrays. Raises Refused unless as declared."""
    records = _records(message, {METRICS: MetricRecord, TEXTS: ConfigRecord, ARRAYS: ArrayRecord})
    numbers, texts = records.get(METRICS, {}), records.get(TEXTS, {})
    if len(numbers) + len(texts) > len(kind.model_fields):
        raise Refused(
            f"it says {len(numbers) + len(texts):,} things, and there are {len(kind.model_fields)} to say"
        )
    if both := numbers.keys() & texts.keys():
        raise Refused(f"it says '{named(min(both))}' twice")
    return checked(kind, {**numbers, **texts}), records.get(ARRAYS)


def checked(kind: type[M], said: Mapping[str, Any]) -> M:
    """Return the values as an instance of ``kind``. Raises Refused with the first fault."""
    try:
        return kind.model_validate(dict(said))
    except ValidationError as error:
        raise Refused(sentence(error)) from None


def sentence(error: ValidationError) -> str:
    """Return the first fault in words, with the given value."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    told = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return clean(f"{named(where)}: {told}" if where else told)
    if first["type"] == "missing":
        return f"it does not say '{named(where)}'"
    if first["type"] == "extra_forbidden":
        return f"'{named(where)}' is none of the names that there are"
    return clean(f"'{named(where)}' is {shown(first['input'])}: {told}")


def shown(value: Any) -> str:
    """Return a value from outside in short form, text in quotes."""
    return f"'{named(value)}'" if isinstance(value, str) else named(value)


def _records(message: Message, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return the records of a message by name. Raises Refused for an undeclared one."""
    if not message.has_content():
        raise Refused("the message has no content")
    found: dict[str, Any] = {}
    for name, record in message.content.items():
        if name not in kinds or not isinstance(record, kinds[name]):
            raise Refused(f"it has a record '{named(name)}' that no message of its kind has")
        found[name] = record
    return found


def _no_name_twice(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a name stands in it twice")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
