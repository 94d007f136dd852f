"""Plans that cannot be carried out, refused in a sentence before the first message."""

from __future__ import annotations

from fedmerge.errors import FedMergeError
from fedmerge.federation.aggregators import fewest_updates
from fedmerge.federation.memory import personal_entries
from fedmerge.federation.plan import Plan


def check_plan(plan: Plan, hospitals: int) -> None:
    """Raise FedMergeError for a plan that contradicts itself, its network or the number of hospitals."""
    rules = plan.federation
    in_a_round = hospitals if rules.participation is None else rules.participation.of(hospitals)
    if rules.quorum > hospitals:
        raise FedMergeError(
            f"federation.quorum is {rules.quorum}, but only {hospitals} hospitals train together: lower it."
        )
    if plan.rounds and rules.aggregate.method in ("krum", "multi-krum"):
        _check_krum(rules.aggregate.method, rules.aggregate.options.get("hostile", 1), in_a_round)
    if rules.personal != "none":
        if not plan.rounds:
            raise FedMergeError(
                f"federation.personal: {rules.personal} is about what hospitals keep between rounds, but "
                "training.rounds is 0: set it to at least 1, or take personal out."
            )
        personal_entries(plan.model, rules.personal)


def _check_krum(name: str, hostile: int, hospitals: int) -> None:
    least = fewest_updates(hostile)
    if hospitals < least:
        raise FedMergeError(
            f"federation.aggregate: {name} with hostile: {hostile} needs at least 2 x {hostile} + 3 = "
            f"{least} hospitals, but {hospitals} train in a round: lower 'hostile', or choose median or "
            "trimmed-mean."
        )
