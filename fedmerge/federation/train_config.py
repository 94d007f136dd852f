"""What a hospital is told for training or evaluation: plain values, written as JSON into a message."""

from __future__ import annotations

from typing import Any

from fedmerge.federation.plan import Plan
from fedmerge.training import TrainingOptions


def common_config(plan: Plan) -> dict[str, Any]:
    """What every job says: the network, how images become its input, the run's seed."""
    normalisation = plan.normalisation
    return {
        "model": plan.model.model_dump(),
        "normalisation": {"mean": list(normalisation.mean), "std": list(normalisation.std)},
        "seed": plan.seed,
    }


def personal_config(plan: Plan) -> dict[str, Any]:
    """What a job says of the part that hospitals keep to themselves; nothing where there is none."""
    personal = plan.federation.personal
    return {} if personal == "none" else {"personal": personal}


def private_config(plan: Plan) -> dict[str, Any]:
    """What a job says of noise that hospitals add themselves; nothing where there is none."""
    privacy = plan.federation.privacy
    local = privacy is not None and privacy.kind == "local"
    return {"privacy": privacy.model_dump(mode="json")} if privacy is not None and local else {}


def train_config(
    plan: Plan, round: int, purpose: str, training: TrainingOptions, span: tuple[float, float] = (0.0, 1.0)
) -> dict[str, Any]:
    """To train as ``training`` says; span: the part of the learning-rate schedule that this round covers."""
    own = {"training": training.model_dump(), "round": round, "purpose": purpose, "span": list(span)}
    return common_config(plan) | personal_config(plan) | own


def round_config(plan: Plan, round: int) -> dict[str, Any]:
    """To train in a federated round, which covers its part of the learning-rate schedule."""
    span = ((round - 1) / plan.rounds, round / plan.rounds)
    return train_config(plan, round, "round", plan.local, span) | private_config(plan)


def fine_tune_config(plan: Plan) -> dict[str, Any]:
    """To train an own copy after the rounds; with an independent start, from an initialisation of its own."""
    assert plan.fine_tune is not None
    own = {"start": "own"} if plan.start == "independent" else {}
    return train_config(plan, plan.rounds + 1, "fine-tune", plan.fine_tune) | own
