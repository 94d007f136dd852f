"""Plans that cannot be carried out, refused in a sentence before the first message."""

from __future__ import annotations

from fedmerge.errors import FedMergeError
from fedmerge.federation.memory import personal_entries
from fedmerge.federation.plan import Plan


def check_plan(plan: Plan, hospitals: int) -> None:
    """Raise FedMergeError for a plan that contradicts itself, its network or the number of hospitals."""
    rules = plan.federation
    if rules.participation is not None:
        rules.participation.of(hospitals)
    if rules.personal != "none":
        if not plan.rounds:
            raise FedMergeError(
                f"federation.personal: {rules.personal} is about what hospitals keep between rounds, but "
                "training.rounds is 0: set it to at least 1, or take personal out."
            )
        personal_entries(plan.model, rules.personal)
