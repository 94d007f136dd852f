"""Refuse, with a sentence, a plan that cannot be carried out, before the first message."""

from __future__ import annotations

from fedmerge.errors import FedMergeError
from fedmerge.federation.aggregators import AGGREGATORS, fewest_updates
from fedmerge.federation.plan.personal import personal_entries
from fedmerge.federation.plan.plan import FederationPlan
from fedmerge.federation.privacy.accounting import Options, epsilon
from fedmerge.federation.privacy.secure_sum import FEWEST
from fedmerge.models.entries import running_pairs
from fedmerge.models.zoo import build

OF_UPDATES = ("mean", "median", "trimmed-mean", "norm-clipping", "krum", "multi-krum")
"""Aggregators that need the updates of a round and nothing else."""


def check_plan(plan: FederationPlan, hospitals: int) -> None:
    """Raise FedMergeError for a plan that contradicts itself, its network or the number of hospitals."""
    rules = plan.federation
    in_a_round = hospitals if rules.participation is None else rules.participation.of(hospitals)
    if rules.quorum > hospitals:
        raise FedMergeError(
            f"federation.quorum is {rules.quorum}, but only {hospitals} hospitals train together: set it "
            f"to at most {hospitals}."
        )
    last = plan.rounds + (plan.fine_tune is not None)
    for fault in rules.faults:
        if fault.rounds != "all" and max(fault.rounds, default=0) > last:
            raise FedMergeError(
                f"federation.faults: round {max(fault.rounds)} is beyond the last, {last} (fine-tuning, "
                "where there is any, is the round after the others): name rounds that there are."
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
    if rules.control_variates:
        _check_control(plan)
    if rules.privacy is not None:
        _check_privacy(plan, rules.privacy)
    if rules.secure_aggregation:
        _check_secure(plan, in_a_round)
    if rules.secure_statistics:
        _check_statistics(plan, hospitals)


def _check_control(plan: FederationPlan) -> None:
    """Refuse what control variates do not go with: they are means of each hospital's gradients."""
    rules, local = plan.federation, plan.local
    what = f"federation.aggregate {rules.aggregate.method}"
    clash = [
        name
        for name, there in (
            ("personal", rules.personal != "none"),
            ("privacy", rules.privacy is not None),
            ("secure_aggregation", rules.secure_aggregation),
        )
        if there
    ]
    for name in clash:
        why = (
            "a hospital keeps one thing between rounds"
            if name == "personal"
            else "they are computed from each hospital's update as it is, and the journal takes each one's"
        )
        raise FedMergeError(
            f"{what} keeps control variates, which do not go with federation.{name}: {why}. Take one of the "
            "two out."
        )
    if local.optimizer != "sgd" or local.momentum:
        given = local.optimizer if local.optimizer != "sgd" else f"sgd with momentum: {local.momentum:g}"
        raise FedMergeError(
            f"{what} reads a hospital's mean gradient off the way it went, which takes plain SGD, but "
            f"the rounds train with {given}: set training.optimizer: sgd and training.momentum: 0 (and lr to "
            "fit; fine_tune may have others)."
        )
    for name, there in (
        ("proximal", local.proximal > 0),
        ("inmerge", local.inmerge is not None),
        ("first_layer_rate", local.first_layer_rate != 1),
    ):
        if there:
            raise FedMergeError(
                f"{what} takes steps along the corrected gradient alone, with one learning rate, but "
                f"training.{name} makes the rounds' steps others: take one of the two out."
            )


def _check_privacy(plan: FederationPlan, privacy: Options) -> None:
    what = "federation.privacy"
    if privacy.kind == "local":
        _check_updates_alone(plan, what)
    else:
        _check_one_mean(plan, what)
    _check_rounds_alone(plan, what)
    if plan.federation.personal != "none":
        raise FedMergeError(
            f"{what} noises what was trained, but with federation.personal the journal takes each hospital's "
            "own part as it is: take one of the two out."
        )
    if running_pairs(build(plan.model.untrained(), 0).state_dict()):
        raise FedMergeError(
            f"{what} clips and noises what was trained, but model '{plan.model.name}' has batch norm, whose "
            "running statistics are no update that could be clipped: choose a network without, for example "
            "with model.options.norm: group."
        )
    if not privacy.simulate:
        epsilon(privacy, plan.rounds)  # raises where the accountant is not installed


def _check_updates_alone(plan: FederationPlan, what: str) -> None:
    """Refuse aggregators that ask hospitals for more than updates, because only updates are noised."""
    method = plan.federation.aggregate.method
    if method not in OF_UPDATES:
        raise FedMergeError(
            f"{what} noises updates, but federation.aggregate {method} asks hospitals for more, which is not "
            f"noised: choose one of {', '.join(OF_UPDATES)}."
        )


def _check_secure(plan: FederationPlan, in_a_round: int) -> None:
    what, rules = "federation.secure_aggregation", plan.federation
    _check_one_mean(plan, what)
    _check_rounds_alone(plan, what)
    central = rules.privacy is not None and rules.privacy.kind != "local"
    for field, given, why in (
        ("privacy", central or None, "clipping at the server takes each update (kind: local goes with it)"),
        ("personal", None if rules.personal == "none" else rules.personal, "the journal takes each own part"),
    ):
        if given is not None:
            raise FedMergeError(
                f"{what} shows the server no hospital's weights, but with federation.{field} {why}: take one "
                "of the two out."
            )
    for fault in rules.faults:
        if fault.kind in ("nan", "wrong-shape", "huge-norm", "stale"):
            raise FedMergeError(
                f"federation.faults: {fault.kind} spoils the weights that a hospital sends, but with {what} "
                "it sends none that could be read: take one of the two out."
            )
    if in_a_round < FEWEST:
        raise FedMergeError(
            f"{what} takes at least {FEWEST} hospitals in a round, but there are {in_a_round}: with fewer, "
            "one could read another's weights."
        )


def _check_statistics(plan: FederationPlan, hospitals: int) -> None:
    """Masked sums over images need enough hospitals, always the same ones, and sums of all together."""
    what, rules = "federation.secure_statistics", plan.federation
    if hospitals < FEWEST:
        raise FedMergeError(
            f"{what} takes at least {FEWEST} hospitals, but there are {hospitals}: with fewer, one could "
            "read another's sums."
        )
    method = AGGREGATORS[rules.aggregate.method]
    needs = method.needs_with(rules.aggregate.options)
    if not plan.rounds or not needs.fusion_sums:
        return
    if needs.own_sums:
        raise FedMergeError(
            f"{what} hides sums among those of other hospitals, but federation.aggregate {method.name} asks "
            "each for sums of its own model: take attribution out, choose hf, kf, ot or rebasin, or take "
            "secure_statistics out."
        )
    if rules.participation is not None:
        raise FedMergeError(
            f"{what} takes sums of the same hospitals in every round, because the difference of two would "
            "show one's own, but with federation.participation others take part each time: take one of the "
            "two out."
        )


def _check_one_mean(plan: FederationPlan, what: str) -> None:
    """Refuse every aggregator but the mean."""
    method = plan.federation.aggregate.method
    if method != "mean":
        raise FedMergeError(
            f"{what} is about the mean of updates, but federation.aggregate is {method}: set it to mean."
        )


def _check_rounds_alone(plan: FederationPlan, what: str) -> None:
    """Refuse a plan without rounds or with fine-tuning after them."""
    if not plan.rounds:
        raise FedMergeError(f"{what} is about rounds, but training.rounds is 0: set it to at least 1.")
    if plan.fine_tune is not None:
        raise FedMergeError(
            f"{what} protects what comes out of the rounds, but after them the server would get each "
            "hospital's own fine-tuned model: set training.fine_tune: none."
        )


def _check_krum(name: str, hostile: int, hospitals: int) -> None:
    least = fewest_updates(hostile)
    if hospitals < least:
        most = (hospitals - 3) // 2
        lower = f"set 'hostile' to at most {most}, or " if most >= 0 else ""
        raise FedMergeError(
            f"federation.aggregate: {name} with hostile: {hostile} needs at least 2 x {hostile} + 3 = "
            f"{least} hospitals, but {hospitals} train in a round: {lower}choose median or trimmed-mean."
        )
