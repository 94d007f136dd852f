"""The limits of a server's open port: per address, per hospital, and in total."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, le=86_400)]
MIB = 2**20


class Limits(BaseModel):
    """The section ``limits`` of server.yaml; the gate reads it when it starts.

    connections, connections_per_address: at the same time; an IPv6 address is a network of 64 bits.
    calls_per_hospital: at the same time. handshake_seconds: for TLS. head_seconds: from the last reply to the
    end of the next call's head. body_seconds: for a body, plus a second for every ``slowest_kib`` of it; the
    same for sending a reply. superlink_seconds: for Flower's reply. max_body_mib: of one call; Flower cuts
    weights into pieces of 5 MiB. max_reply_mib: of all pieces of one reply, which must have room for twice
    the model and the sums of a fusion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    connections: int = Field(default=512, ge=1)
    connections_per_address: int = Field(default=64, ge=1)
    calls_per_hospital: int = Field(default=16, ge=1)
    handshake_seconds: Seconds = 10.0
    head_seconds: Seconds = 15.0
    body_seconds: Seconds = 30.0
    slowest_kib: float = Field(default=16.0, gt=0)
    superlink_seconds: Seconds = 300.0
    max_body_mib: float = Field(default=64.0, gt=0)
    max_reply_mib: float = Field(default=4096.0, gt=0)

    def patience(self, length: int) -> float:
        """Return the seconds in which this many bytes must be received or sent."""
        return self.body_seconds + length / (1024 * self.slowest_kib)
