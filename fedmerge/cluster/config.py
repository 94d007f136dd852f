"""The section ``backend``: where the hospitals of a run compute."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedmerge.schema.validation import validate


class BackendConfig(BaseModel):
    """The configuration of a backend.

    kind: ``local``, this process, one hospital after another; or ``ray``, worker processes that each run
    several hospitals. The other fields are for ray, but local takes workers, too: 1, no process beside this
    one; 2, a second one that meanwhile does what asks no hospital; None: a second one where a CPU is free
    for it and the work is long.
    address: of a running cluster, ``auto`` (on this machine), ``HOST:PORT`` or ``ray://HOST:PORT``; None:
    the environment variable RAY_ADDRESS, else a Ray cluster of the run's own, which ends with the run.
    workers: of ray, number of worker processes; None: as many as the CPUs (or GPUs) allow, at most one a
    hospital.
    cpus, gpus: for each worker, which trains one hospital at a time; may be fractions. gpus None:
    on a CUDA device all workers share the GPUs evenly. patience: seconds that workers may take to start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1.0, gt=0)
    gpus: float | None = Field(default=None, ge=0)
    patience: float = Field(default=120.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> BackendConfig:
        extra = sorted(self.model_fields_set - {"kind", "workers"})
        if self.kind == "local" and extra:
            raise ValueError(
                f"kind local is this machine alone, so it takes no {', '.join(extra)}: choose kind ray"
            )
        if self.kind == "local" and self.workers not in (None, 1, 2):
            raise ValueError(
                f"workers is {self.workers}, but kind local has 1 process, or 2: choose kind ray for more"
            )
        if self.address is not None and not re.fullmatch(r"auto|(ray://)?[^/:\s]+:\d+", self.address):
            raise ValueError(
                f"address '{self.address}' is not one of a Ray cluster: give auto, HOST:PORT or ray://HOST:PORT"
            )
        return self

    @classmethod
    def of(cls, given: BackendConfig | str | Mapping[str, Any] | None) -> BackendConfig:
        """Return the configuration of a kind, a mapping of fields, or None (local). Raises FedMergeError."""
        if isinstance(given, BackendConfig):
            return given
        fields = {"kind": given} if isinstance(given, str) else dict(given or {})
        return validate(cls, fields, "backend")

    @property
    def threads(self) -> int | None:
        """The threads of a run whose configuration names no number; None: PyTorch's choice.

        With workers side by side it is one worker's CPUs: more threads would take several times as long.
        """
        return None if self.kind == "local" else max(1, int(self.cpus))

    @property
    def waited_for(self) -> str:
        """What attaching to Ray waits for, in words."""
        if self.cluster is None:
            return "waiting for Ray to start on this machine"
        return f"waiting for the Ray cluster at {self.cluster} (see there: ray status)"

    @property
    def cluster(self) -> str | None:
        """The address of the cluster to attach to; None for a Ray cluster of the run's own."""
        return self.address or os.environ.get("RAY_ADDRESS") or None
