"""The limits of a service: of one body, of one client, and of all of them together."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
MIB = 2**20


class Limits(BaseModel):
    """What one caller may send, and how many callers there may be.

    body_mib: of one body. unpacked_mib: of the pixels of one batch, as they are sent. images: in a batch.
    side, pixels: of one image; the longer side, and all of it. streams: with a node of their own, in total,
    as each holds a copy of the models. idle_seconds: after which a stream may make room for a new one.
    waiting: batches that are read, wait or are computed. connections: open at the same time. head_seconds:
    from a connection's begin, or the last answer, to the end of the next head. body_seconds: for a body, plus
    a second for every ``slowest_kib`` of it that has come. answer_seconds: that a batch waits for its turn at
    the node. stop_seconds: that work in flight gets when the service ends. history_rows: batches kept; the
    oldest go.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_mib: float = Field(default=32.0, gt=0)
    unpacked_mib: float = Field(default=256.0, gt=0)
    images: Count = 256
    side: Count = 8192
    pixels: Count = 25_000_000
    streams: Count = 8
    idle_seconds: Seconds = 3600.0
    waiting: Count = 64
    connections: Count = 256
    head_seconds: Seconds = 15.0
    body_seconds: Seconds = 30.0
    slowest_kib: float = Field(default=16.0, gt=0)
    answer_seconds: Seconds = 60.0
    stop_seconds: Seconds = 30.0
    history_rows: Count = 100_000

    @property
    def body_bytes(self) -> int:
        """The most bytes of a body."""
        return int(self.body_mib * MIB)

    @property
    def unpacked_bytes(self) -> int:
        """The most bytes of a batch's pixels."""
        return int(self.unpacked_mib * MIB)

    def patience(self, length: int) -> float:
        """Return the seconds in which this many bytes must have come."""
        return self.body_seconds + length / (1024 * self.slowest_kib)
