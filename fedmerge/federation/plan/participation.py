"""Participation: all hospitals train in a round, or some drawn anew for each round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedmerge.errors import FedMergeError
from fedmerge.seeding import numpy_generator

if TYPE_CHECKING:
    from fedmerge.federation.client_registry import ClientRegistry


class Participation(BaseModel):
    """How many hospitals train in a round: a fraction of them, or a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fraction: float | None = Field(None, gt=0, le=1)
    number: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_of_them(self) -> Participation:
        if (self.fraction is None) == (self.number is None):
            raise ValueError(
                "set one of the two: fraction (0.5: half of the hospitals) or number (5 of them)"
            )
        return self

    def of(self, hospitals: int) -> int:
        """Return how many hospitals take part; a fraction is rounded, to at least 1. Raises FedMergeError."""
        if self.fraction is not None:
            return max(1, round(self.fraction * hospitals))
        assert self.number is not None
        if self.number > hospitals:
            raise FedMergeError(
                f"participation.number is {self.number}, but only {hospitals} hospitals train: "
                f"set it to at most {hospitals}, or give a fraction."
            )
        return self.number


def participants(
    clients: ClientRegistry, participation: Participation | None, seed: int, round: int
) -> ClientRegistry:
    """Return the hospitals of one round, in registry order; all of them for None.

    Drawn without replacement over the names from (seed, "participation", round), independent of node ids and
    of earlier rounds, so a resumed run draws the same.
    """
    if participation is None:
        return clients
    rng = numpy_generator(seed, "participation", round)
    names = [client.name for client in clients]
    return clients.named(rng.choice(names, participation.of(len(names)), replace=False).tolist())
