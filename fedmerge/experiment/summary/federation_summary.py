"""How the hospitals trained together, in words, as the report prints it."""

from __future__ import annotations

from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.formatting import listing
from fedmerge.experiment.summary.privacy_summary import mechanism
from fedmerge.federation.plan.options import FederationOptions

PERSONAL = {
    "norms": "each hospital keeps its own batch norms; the model that leaves has the mean of them",
    "head": "each hospital keeps its own head; the model that leaves has the mean of them",
}


def federation_in_words(experiment: Experiment) -> str:
    """Say how an experiment differs from plain federated averaging of all hospitals; empty if it does not."""
    training, rules = experiment.training, experiment.federation
    spoilt = [_spoilt(rules)] if rules.faults else []
    if not training.rounds:
        return "; ".join(_sums(experiment) + spoilt)
    parts = [f"FedProx with mu = {training.proximal:g}"] if training.proximal else []
    parts += _rules(rules)
    if rules.privacy is not None:
        parts.append(mechanism(rules.privacy))
    parts += _sums(experiment)
    return "; ".join(parts + spoilt)


def _sums(experiment: Experiment) -> list[str]:
    data = experiment.fusion_data
    if data is None or data.origin != "hospitals" or not experiment.federation.masks_statistics:
        return []
    return ["the server saw sums over the images of all hospitals, and of no hospital alone (masks)"]


def _spoilt(rules: FederationOptions) -> str:
    kinds = listing(list(dict.fromkeys(fault.kind for fault in rules.faults)))
    return f"hospitals misbehaved on purpose (fault injection: {kinds}); what it did is among the failures"


def _rules(rules: FederationOptions) -> list[str]:
    parts = []
    if rules.aggregate.method != "mean":
        options = "".join(f", {key} {value}" for key, value in rules.aggregate.options.items())
        parts.append(f"updates are aggregated by {rules.aggregate.method}{options}")
    if rules.optimizer is not None:
        parts.append(
            f"the server steps by {rules.optimizer.method} with learning rate {rules.optimizer.rate:g}"
        )
    if rules.participation is not None:
        fraction, number = rules.participation.fraction, rules.participation.number
        who = f"{number}" if fraction is None else f"{100 * fraction:g} % of the hospitals"
        parts.append(f"{who} take part in a round, drawn by the seed")
    if rules.personal != "none":
        parts.append(PERSONAL[rules.personal])
    if rules.max_norm is not None:
        parts.append(f"updates longer than {rules.max_norm:g} were refused")
    if rules.deadline is not None:
        parts.append(f"training that took more than {rules.deadline:g} s was late and left out")
    if rules.secure_aggregation:
        parts.append("the server saw sums of weights, counts and scores, and no hospital's own (masks)")
    return parts
