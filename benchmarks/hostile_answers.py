"""Answers as a hostile hospital would give them, by the message they answer: an honest one, changed."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord

Spoil = Callable[[Message], Any]
"""Changes a reply, or returns another."""
WEIGHT, VARIANCE, COUNTER = "features.0.weight", "features.1.running_var", "features.1.num_batches_tracked"


class Big(bytes):
    """Two gigabytes, so it says; whoever reads any of it has lost."""

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
    """One of the tensors, changed: an ndarray is written as numpy does, an Array stays as it is."""

    def spoil(reply: Message) -> None:
        arrays = reply.content["arrays"]
        new = change(arrays[key].numpy().copy())
        force(arrays, **{key: new if isinstance(new, Array) else Array(new)})

    return spoil


def fill(value: float, key: str = WEIGHT) -> Spoil:
    return tensor(lambda x: np.full_like(x, value), key)


def array(x: np.ndarray, data: bytes | None = None, **lies: Any) -> Array:
    """An Array that says what it likes."""
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
        # as a reply to the question that this one answers
        made = Message.__new__(Message)
        made.__dict__.update(reply.__dict__)
        made.__dict__["_content"], made.__dict__["_error"] = None, Error(code=code, reason=reason)
        return made

    return spoil


COUNT: dict[str, Spoil] = {
    "1e18 images": say("num-examples", 10**18),
    "images more than greeted": say("num-examples", 25),
    "no image": say("num-examples", 0),
    "images below zero": say("num-examples", -24),
    "images as a float": say("num-examples", 24.0),
    "images inf": say("num-examples", math.inf),
    "images true": say("num-examples", True),
    "images a list": say("num-examples", [24]),
    "images unsaid": unsaid("num-examples"),
    "images of 5,000 digits": say("num-examples", 10**5000),
}
NUMBERS: dict[str, Spoil] = {
    "round": say(round=99),
    "phase": say(phase=1),
    "site": say(site=3),
    "epsilon": say(epsilon=0.0),
    "site as text": texts(site="alpha"),
    "phase as text": texts(phase="greeting"),
    "said twice": texts(accuracy=0.5),
    "accuracy 1e9": say(accuracy=1e9),
    "accuracy nan": say(accuracy=math.nan),
    "accuracy a list": say(accuracy=[0.5]),
    "accuracy below zero": say(accuracy=-0.1),
    "accuracy text": say(accuracy="1.0"),
    "accuracy unsaid": unsaid("accuracy"),
    "loss nan": say(loss=math.nan),
    "loss inf": say(loss=math.inf),
    "loss 1e308": say(loss=1e308),
    "loss below zero": say(loss=-1.0),
    "loss none": say(loss=None),
    "a list of lists": say(loss=[[1.0]]),
    "200,000 names": flood,
    "HTML as a name": say("<script>alert(1)</script>", 1.0),
    "a formula as a name": say("=cmd|' /C calc'!A0", 1.0),
    "a name of a million letters": say("x" * 10**6, 1.0),
    "a name that steers a terminal": say("\x1b[2J\u202eevil", 1.0),
    "no name": say(_name="", _value=1.0, **{"": 1.0}),
    "no numbers": without("metrics"),
    "numbers as text": as_words,
    "numbers in an array record": record("metrics", ArrayRecord()),
    "a record more": record("more", MetricRecord({"x": 1.0})),
    "arrays of another name": record("weights", ArrayRecord([np.zeros(1)])),
    "nothing": empty,
}
TRAIN = COUNT | NUMBERS | {
    "seconds a list": say(seconds=[1]),
    "seconds below zero": say(seconds=-1e9),
    "seconds inf": say(seconds=math.inf),
    "seconds nan": say(seconds=math.nan),
    "steps below zero": say(steps=-1),
    "steps a fraction": say(steps=0.5),
    "merges too many": say(merges=2**80),
    "delay below zero": say(delay=-1e9),
    "delay nan": say(delay=math.nan),
    "forgot 2": say(forgot=2),
    "temperature": say(temperature=1.0),
    "no weights": without("arrays"),
    "weights in a metric record": record("arrays", MetricRecord({"x": 1.0})),
    "no tensor": record("arrays", ArrayRecord()),
    "a tensor lacks": lacking,
    "a tensor more": more("hidden", np.zeros(10**6)),
    "a tensor with a long name": more("x" * 10**6, np.zeros(1)),
    "a row more": tensor(lambda x: np.concatenate([x, x[:1]])),
    "transposed": tensor(lambda x: x.T),
    "float64": tensor(lambda x: x.astype(np.float64)),
    "float16": tensor(lambda x: x.astype(np.float16)),
    "int64": tensor(lambda x: x.astype(np.int64)),
    "bool": tensor(lambda x: x.astype(bool)),
    "complex": tensor(lambda x: x.astype(np.complex64)),
    "text": tensor(lambda x: x.astype("U8")),
    "objects": tensor(lambda x: array(x.astype(object))),
    "nan": fill(math.nan),
    "inf": fill(math.inf),
    "minus inf": fill(-math.inf),
    "3e38": fill(3e38),
    "minus 3e38": fill(-3e38),
    "1e18": fill(1e18),
    "1e9": fill(1e9),
    "3e38 as a variance": fill(3e38, VARIANCE),
    "a variance below zero": fill(-1.0, VARIANCE),
    "batches below zero": fill(-1, COUNTER),
    "batches 2^63 - 1": fill(2**63 - 1, COUNTER),
    "pickle": claim(stype="pickle"),
    "torch.save": claim(stype="torch.save"),
    "stype unsaid": claim(stype=""),
    "a claimed shape of 10 GB": claim(shape=(10**10,)),
    "a claimed shape below zero": claim(shape=(-1, 1, 3, 3)),
    "a claimed dtype": claim(dtype="float64"),
    "objects under another name": bytes_of(lambda x: saved(x.astype(object))),
    "a header of 10 GB": lying(shape=(10**10,)),
    "a header of 2^62 x 8": lying(shape=(2**62, 8)),
    "a header of another shape": lying(shape=(18,)),
    "a header below zero": lying(shape=(-1,)),
    "a header of floats": lying(shape=(2.0, 1.0, 3.0, 3.0)),
    "a header of no shape": lying(shape="x"),
    "a header of other bytes": lying(descr=">f4"),
    "a header of objects": lying(descr="|O"),
    "a header of text": lying(descr="<U1"),
    "a header of fields": lying(descr=[("a", "<f4")]),
    "a header of no dtype": lying(descr="os.system"),
    "a header that is no literal": bytes_of(lambda x: header("__import__('os').abort()", x.tobytes())),
    "a header of brackets": bytes_of(lambda x: header("(" * 4000, x.tobytes())),
    "a header of 60 kB": bytes_of(lambda x: header(" " * 60_000, x.tobytes())),
    "a header that never ends": bytes_of(lambda x: b"\x93NUMPY\x01\x00\xff\xff"),
    "numpy's format 3": bytes_of(lambda x: header("{}", x.tobytes(), (3, 0))),
    "numpy's format 9": bytes_of(lambda x: header("{}", x.tobytes(), (9, 9))),
    "a zip": bytes_of(lambda x: b"PK\x03\x04" + x.tobytes()),
    "a pickle": bytes_of(lambda x: b"\x80\x04\x95" + x.tobytes()),
    "no bytes": bytes_of(lambda x: b""),
    "a byte less": bytes_of(lambda x: saved(x)[:-1]),
    "a byte more": bytes_of(lambda x: saved(x) + b"\x00"),
    "a megabyte more": bytes_of(lambda x: saved(x) + bytes(2**20)),
    "2 GB": bytes_of(lambda x: Big(saved(x))),
}  # fmt: skip
EVALUATE = COUNT | NUMBERS | {
    "balanced accuracy 2": say(balanced_accuracy=2.0),
    "balanced accuracy unsaid": unsaid("balanced_accuracy"),
    "a temperature, unasked": say(temperature=1.0),
    "seconds": say(seconds=1.0),
    "weights, unasked": record("arrays", ArrayRecord([np.zeros(10**6)])),
}  # fmt: skip
GREETING = COUNT | {
    "no numbers": without("metrics"),
    "no words": without("texts"),
    "nothing": empty,
    "numbers as text": as_words,
    "validation inf": say("num-validation", math.inf),
    "validation unsaid": unsaid("num-validation"),
    "classes unsaid": unsaid("class-counts"),
    "classes a number": say("class-counts", 24),
    "classes text": say("class-counts", ["8", "8", "8"]),
    "classes floats": say("class-counts", [8.0, 8.0, 8.0]),
    "classes nan": say("class-counts", [math.nan] * 3),
    "classes lists": say("class-counts", [[8], [8], [8]]),
    "classes below zero": say("class-counts", [-8, 24, 8]),
    "classes of another sum": say("class-counts", [8, 8, 9]),
    "a class more": say("class-counts", [8, 8, 7, 1]),
    "a million classes": say("class-counts", [0] * 10**6),
    "no class": say("class-counts", []),
    "200,000 names": flood,
    "accuracy": say(accuracy=1.0),
    "another's name": texts(name="alpha"),
    "a stranger's name with a path": texts(name="../../etc/passwd"),
    "no name": texts(name=""),
    "a long name": texts(name="x" * 10**6),
    "HTML as a name": texts(name="<img src=x onerror=alert(1)>"),
    "a formula as a name": texts(name="=cmd|' /C calc'!A0"),
    "a name of lines": texts(name="delta\nround: 1"),
    "a name that turns text": texts(name="\u202edelta"),
    "a number as a name": texts(name=4),
    "bytes as a name": texts(name=b"delta"),
    "a word more": texts(role="server"),
    "arrays": record("arrays", ArrayRecord([np.zeros(10**6)])),
}
ERRORS = {
    "a reason of 250 kB": error("x " * 125_000),
    "a reason of 250 kB without a space": error("a." * 125_000),
    "a reason that is slow to match": error("<class '" + "a." * 100_000 + "'>:<'" + "'>" * 100_000),
    "HTML": error("<script>alert(1)</script>"),
    "a formula": error("=cmd|' /C calc'!A0"),
    "a reason that steers a terminal": error("\x1b[2J\x07\x00\u202eok\ud800\r\nround 1: fine"),
    "no reason": error(""),
    "spaces": error(" \n \x00 "),
    "an unknown code": error("why", code=10**6),
}
