"""How an honest answer is changed into a hostile one: numbers, words, tensors and their bytes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ConfigRecord, Error, Message

Spoil = Callable[[Message], Any]
"""Changes a reply, or returns another."""
WEIGHT, VARIANCE, COUNTER = "features.0.weight", "features.1.running_var", "features.1.num_batches_tracked"


class Big(bytes):
    """Bytes that claim to be two gigabytes, and raise AssertionError when they are read."""

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("it was read")


def force(record: Any, **values: Any) -> None:
    """Put values into a record past Flower's own checks, which a hostile hospital does not make."""
    record.__dict__["_data"].update(values)


def say(_name: str = "", _value: Any = None, **values: Any) -> Spoil:
    return lambda reply: force(reply.content["metrics"], **values, **({_name: _value} if _name else {}))


def unsaid(name: str) -> Spoil:
    return lambda reply: reply.content["metrics"].__dict__["_data"].pop(name)


def flood(reply: Message) -> None:
    force(reply.content["metrics"], **{f"metric {i}": float(i) for i in range(200_000)})


def record(name: str, value: Any) -> Spoil:
    return lambda reply: force(reply.content, **{name: value})


def without(name: str) -> Spoil:
    return lambda reply: reply.content.__dict__["_data"].pop(name)


def texts(**values: Any) -> Spoil:
    def spoil(reply: Message) -> None:
        kept = dict(reply.content.get("texts", {}))
        force(reply.content, texts=ConfigRecord())
        force(reply.content["texts"], **kept | values)

    return spoil


def empty(reply: Message) -> None:
    reply.content.__dict__["_data"].clear()


def as_words(reply: Message) -> None:
    """Numbers written as text, in a record of another kind."""
    force(reply.content, metrics=ConfigRecord({k: str(v) for k, v in reply.content["metrics"].items()}))


def tensor(change: Callable[[np.ndarray], Any], key: str = WEIGHT) -> Spoil:
    """Change one of the tensors: an ndarray is written as numpy does, an Array stays as it is."""

    def spoil(reply: Message) -> None:
        arrays = reply.content["arrays"]
        new = change(arrays[key].numpy().copy())
        force(arrays, **{key: new if isinstance(new, Array) else Array(new)})

    return spoil


def fill(value: float, key: str = WEIGHT) -> Spoil:
    return tensor(lambda x: np.full_like(x, value), key)


def array(x: np.ndarray, data: bytes | None = None, **lies: Any) -> Array:
    """Make an Array whose fields may say anything (``lies``)."""
    made = Array(str(x.dtype), tuple(x.shape), "numpy.ndarray", b"")
    made.__dict__.update({"data": saved(x) if data is None else data} | lies)
    return made


def saved(x: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, x, allow_pickle=True)
    return file.getvalue()


def header(text: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes(version) + size + text.encode("latin1") + b"\n" + body


def described(x: np.ndarray, descr: Any = "<f4", shape: Any = None, fortran: Any = False) -> bytes:
    text = repr({"descr": descr, "fortran_order": fortran, "shape": x.shape if shape is None else shape})
    return header(text, x.tobytes())


def lying(**given: Any) -> Spoil:
    return tensor(lambda x: array(x, described(x, **given)))


def bytes_of(make: Callable[[np.ndarray], bytes]) -> Spoil:
    return tensor(lambda x: array(x, make(x)))


def claim(**lies: Any) -> Spoil:
    return tensor(lambda x: array(x, **lies))


def lacking(reply: Message) -> None:
    reply.content["arrays"].__dict__["_data"].pop(WEIGHT)


def more(name: str, value: np.ndarray) -> Spoil:
    return lambda reply: force(reply.content["arrays"], **{name: Array(value)})


def error(reason: Any, code: int = 1) -> Spoil:
    def spoil(reply: Message) -> Message:
        # an error that replies to the same message as the honest reply
        made = Message.__new__(Message)
        made.__dict__.update(reply.__dict__)
        made.__dict__["_content"], made.__dict__["_error"] = None, Error(code=code, reason=reason)
        return made

    return spoil
