"""The plan of a federated run: everything that the server decides and tells the hospitals."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedmerge.federation.plan.options import FederationOptions
from fedmerge.models.inputs import Inputs
from fedmerge.models.state import BatchNormPolicy
from fedmerge.models.zoo import ModelSpec
from fedmerge.training import TrainingOptions

Start = Literal["shared", "independent"]
START_IS_SHARED = (
    "start: independent draws each hospital's network in its own place, where the file of weights that "
    "model.pretrained names is not read: set start: shared."
)


class FederationPlan(BaseModel):
    """The training of a federated run: model, rounds, options.

    rounds: federated rounds; 0 fine-tunes from the start. start: all hospitals begin
    from one initialisation, or, without rounds, each from its own. local: a hospital's training in one
    round. fine_tune: what each hospital does to its own copy after the rounds; None: nothing.
    federation: how updates become one model, and what happens to a hospital that fails.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    model: ModelSpec
    normalisation: Inputs
    seed: int
    rounds: int
    start: Start = "shared"
    local: TrainingOptions
    fine_tune: TrainingOptions | None
    batch_norm: BatchNormPolicy = "mixture"
    federation: FederationOptions = FederationOptions()
