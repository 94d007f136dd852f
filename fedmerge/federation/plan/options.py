"""The section ``federation`` of an experiment; a plan carries it unchanged."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from fedmerge.errors import FedMergeError
from fedmerge.federation.aggregators import AGGREGATORS
from fedmerge.federation.plan.fault_injection import Fault
from fedmerge.federation.plan.participation import Participation
from fedmerge.federation.plan.personal import Personal
from fedmerge.federation.plan.privacy import Privacy
from fedmerge.federation.plan.section import Section
from fedmerge.federation.plan.server_optimizer import ServerOptimizerOptions

OnFailure = Literal["skip", "retry", "abort"]


class Aggregation(Section):
    """An aggregator with its options; written as its name, or as a mapping with the key ``method``."""

    method: str = "mean"
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        written = {"method": given} if isinstance(given, str) else given
        if not isinstance(written, dict):
            raise ValueError("write an aggregator's name, or a mapping with 'method' and its options")
        options = {key: value for key, value in written.items() if key != "method"}
        try:
            method = AGGREGATORS[written.get("method", "mean")]
            return {"method": method.name, "options": method.check(options)}
        except FedMergeError as error:
            raise ValueError(*error.args) from None

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {"method": self.method, **self.options}


class FederationOptions(Section):
    """How the server runs a round, and how it treats hospitals that fail.

    aggregate: how updates become one model. optimizer: the server optimizer applied to that model; None: the
    model itself is the new one. participation: how many hospitals train in a round; None: all. personal: the
    part of the model that each hospital keeps to itself between rounds (``client_state.personal_entries``).
    privacy: updates are clipped, and their mean (``privacy.central``) or each update (``privacy.local``) is
    noised. secure_aggregation: the server learns the mean of updates and no single one (``secure_sum``).
    secure_statistics: the same for sums over images (``sums.masked``); None: like ``secure_aggregation``.

    on_failure: a hospital that fails is left out of the round (``skip``), asked again up to ``retries`` times
    and then left out (``retry``), or ends the run (``abort``). quorum: the fewest hospitals that must give a
    usable reply in the end, else the run ends with a sentence. max_norm: an update whose norm
    (``checks.update_norm``) is above it is refused; with secure aggregation, a mean of updates. deadline:
    seconds; a hospital whose training took longer, by its own clock (``requests.late``), is left out of the
    round. The grid of Flower's runtimes waits ``client_manager.LOADING`` seconds longer; a grid in this
    process cannot interrupt a hospital. faults: fault injection, for simulations. keep: the number of rounds
    whose weights the journal keeps (``journal``).
    """

    aggregate: Aggregation = Aggregation()
    optimizer: ServerOptimizerOptions | None = None
    participation: Participation | None = None
    personal: Personal = "none"
    privacy: Privacy | None = None
    secure_aggregation: bool = False
    secure_statistics: bool | None = None
    on_failure: OnFailure = "skip"
    retries: int = Field(default=1, ge=1)
    quorum: int = Field(default=1, ge=1)
    max_norm: float | None = Field(default=None, gt=0)
    deadline: float | None = Field(default=None, gt=0)
    faults: tuple[Fault, ...] = ()
    keep: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _retries_are_for_retry(self) -> FederationOptions:
        if "retries" in self.model_fields_set and self.retries != 1 and self.on_failure != "retry":
            raise ValueError(f"retries is set, but on_failure is {self.on_failure}: set on_failure to retry")
        return self

    @model_validator(mode="after")
    def _a_hang_ends(self) -> FederationOptions:
        if self.deadline is None and any(fault.kind == "hang" for fault in self.faults):
            raise ValueError(
                "fault injection with a hang needs a deadline, else the round never ends: set it"
            )
        return self

    @property
    def attempts(self) -> int:
        """The most attempts of a hospital in a round."""
        return 1 + self.retries if self.on_failure == "retry" else 1

    @property
    def masks_statistics(self) -> bool:
        """Whether sums over images are masked."""
        return self.secure_aggregation if self.secure_statistics is None else self.secure_statistics

    @property
    def control_variates(self) -> bool:
        """Whether hospitals correct their steps by control variates."""
        return AGGREGATORS[self.aggregate.method].needs.control_variates

    @property
    def keeps_client_state(self) -> bool:
        """Whether hospitals keep something between rounds."""
        return self.personal != "none" or self.control_variates

    def written(self) -> dict[str, Any]:
        """Return only what differs from the defaults, as JSON values."""
        return self.model_dump(mode="json", exclude_defaults=True)
