"""A message, taken apart by its declaration: what is left is typed, and all else is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from pydantic import BaseModel, ValidationError

from fedmerge.errors import FedMergeError
from fedmerge.federation.schema.fields import Told
from fedmerge.federation.schema.messages import MESSAGES
from fedmerge.federation.schema.tensors import Refused, Tensors, named
from fedmerge.federation.schema.text import clean
from fedmerge.models.state import State

ARRAYS, JOB, METRICS, TEXTS = "arrays", "config", "metrics", "texts"
LONGEST_JOB = 4 * 2**20
"""Letters of a job; the longest there are list the images or the keys of every hospital."""

M = TypeVar("M", bound=BaseModel)
J = TypeVar("J", bound=Told)


def read_job(message: Message, kind: type[J]) -> J:
    """The job in a message. Raises Refused unless it is one of this kind, as it is declared."""
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
    """The job in a message as it was written, once it is one of the kind that the message's type says."""
    declared = MESSAGES.get(message.metadata.message_type)
    if declared is None:
        raise Refused(f"there is no message of type '{named(message.metadata.message_type)}'")
    read_job(message, declared.job)
    return dict(json.loads(str(message.content[JOB]["job"])))


def has_tensors(message: Message) -> bool:
    """Whether there are arrays in a job."""
    return bool(message.has_content() and message.content.get(ARRAYS))


def read_tensors(message: Message, tensors: Tensors) -> State:
    """The weights in a job, with the dtypes they had; perhaps lent, so not to be written to."""
    records = _records(message, {JOB: ConfigRecord, ARRAYS: ArrayRecord})
    return tensors.read(records.get(ARRAYS)) or {}


def read_reply(message: Message, kind: type[M]) -> tuple[M, ArrayRecord | None]:
    """What an answer says, and its arrays as they came. Raises Refused unless it is as declared."""
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
    """The values as an instance of ``kind``. Raises Refused with the first that is not as declared."""
    try:
        return kind.model_validate(dict(said))
    except ValidationError as error:
        raise Refused(sentence(error)) from None


def sentence(error: ValidationError) -> str:
    """The first fault, in words, with what was given."""
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
    """A value from outside, short; text in quotes."""
    return f"'{named(value)}'" if isinstance(value, str) else named(value)


def _records(message: Message, kinds: Mapping[str, type]) -> dict[str, Any]:
    """The records of a message by name. Raises Refused for one that is not declared."""
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
