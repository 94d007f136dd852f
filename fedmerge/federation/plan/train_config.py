"""The jobs of training and evaluation: plain values, written as JSON into a message."""

from __future__ import annotations

from typing import Any

from fedmerge.federation.plan.plan import FederationPlan
from fedmerge.training import TrainingOptions


def common_config(plan: FederationPlan) -> dict[str, Any]:
    """Return the fields of every job: the network, how images become its input, the run's seed."""
    return {
        "model": plan.model.model_dump(),
        "normalisation": plan.normalisation.to_dict(),
        "seed": plan.seed,
    }


def personal_config(plan: FederationPlan) -> dict[str, Any]:
    """Return a job's field about the personal part of the model; empty without one."""
    personal = plan.federation.personal
    return {} if personal == "none" else {"personal": personal}


def control_config(plan: FederationPlan) -> dict[str, Any]:
    """Return a job's field about control variates; empty without them."""
    return {"control": True} if plan.federation.control_variates else {}


def private_config(plan: FederationPlan) -> dict[str, Any]:
    """Return a job's field about local privacy; empty without it."""
    privacy = plan.federation.privacy
    local = privacy is not None and privacy.kind == "local"
    return {"privacy": privacy.model_dump(mode="json")} if privacy is not None and local else {}


def train_config(
    plan: FederationPlan,
    round: int,
    purpose: str,
    training: TrainingOptions,
    span: tuple[float, float] = (0.0, 1.0),
) -> dict[str, Any]:
    """Return a training job. span: the part of the learning-rate schedule that this round covers."""
    own = {"training": training.model_dump(), "round": round, "purpose": purpose, "span": list(span)}
    return common_config(plan) | personal_config(plan) | own


def round_span(plan: FederationPlan, round: int) -> tuple[float, float]:
    """Return the part of the learning-rate schedule that a round covers."""
    return (round - 1) / plan.rounds, round / plan.rounds


def round_config(plan: FederationPlan, round: int) -> dict[str, Any]:
    """Return the job of a federated round, which covers its part of the learning-rate schedule."""
    span = round_span(plan, round)
    return train_config(plan, round, "round", plan.local, span) | private_config(plan) | control_config(plan)


def fine_tune_config(plan: FederationPlan) -> dict[str, Any]:
    """Return the job to train an own copy after the rounds (independent start: an own initialisation)."""
    assert plan.fine_tune is not None
    own = {"start": "own"} if plan.start == "independent" else {}
    return train_config(plan, plan.rounds + 1, "fine-tune", plan.fine_tune) | own
