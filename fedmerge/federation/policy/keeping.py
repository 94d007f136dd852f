"""Enforce a policy: refuse proposals that break it, and remove from replies what may not leave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flwr.app import Message

from fedmerge.data import Site
from fedmerge.errors import Faults, FedMergeError, short
from fedmerge.federation.messages.reading import METRICS, TEXTS
from fedmerge.federation.plan.privacy import LocalPrivacy
from fedmerge.federation.policy.proposal import Proposal, canonical, plugins_of
from fedmerge.federation.policy.rules import FILE, Policy, read_policy
from fedmerge.federation.policy.suppression import suppressed, suppressed_findings
from fedmerge.federation.privacy.accounting import epsilon_of
from fedmerge.plugin_code import title_of
from fedmerge.plugins import locate_plugins, restrict_plugins
from fedmerge.tasks import TASKS

NEEDED = {
    "query": ("num-examples", "num-validation"),
    "train": ("num-examples", "loss", "accuracy"),
    "evaluate": ("num-examples", "loss", "accuracy", "balanced_accuracy"),
}
"""The numbers that a server needs, by message type."""
COUNTS, BELOW = "class-counts", "suppressed-below"


def check_proposal(policy: Policy, proposal: Proposal, version: str, threads: int) -> None:
    """Raise FedMergeError with all points of a proposal that this hospital's policy does not allow."""
    plan, rules, limits = proposal.plan, proposal.plan.federation, policy.limits
    trainings = [plan.local, *([plan.fine_tune] if plan.fine_tune is not None else [])]
    epochs = max(each.epochs for each in trainings)
    batch = max(each.batch_size for each in trainings)
    fetched = plan.model.pretrained and plan.start == "independent"
    unsaid = [title for title in plugins_of(plan) if title not in proposal.plugins]
    noisy = rules.privacy if isinstance(rules.privacy, LocalPrivacy) and not rules.privacy.simulate else None
    least = policy.local_noise
    most, cost = None if least is None else least.epsilon, 0.0
    if least is not None and most is not None and noisy is not None:
        cost = epsilon_of([noisy.multiplier] * plan.rounds, least.delta)
    summed = rules.participation.number if rules.secure_aggregation and rules.participation else None
    broken = [
        (
            proposal.version != version,
            f"the server runs FedMerge {proposal.version}, this hospital {version}: install the same",
        ),
        (
            bool(rules.faults) and policy.faults == "never",
            "faults: never, but the experiment has hospitals misbehave on purpose",
        ),
        (fetched and not policy.pretrained, "pretrained: false, but its node would fetch pretrained weights"),
        (
            policy.networks != "any" and plan.model.name not in policy.networks,
            f"networks does not list {canonical(plan.model.name)}",
        ),
        (
            plan.fine_tune is not None and not policy.own_model,
            "own_model: false, but each hospital is to hand out the model that it tuned for itself",
        ),
        (
            proposal.sums is not None and not policy.sums,
            "sums: false, but a fusion asks for sums over images",
        ),
        (
            policy.secure == "only" and proposal.sums is not None and not rules.masks_statistics,
            "secure: only, but sums over images would leave without masks",
        ),
        (
            policy.secure == "only" and bool(plan.rounds) and not rules.secure_aggregation,
            "secure: only, but updates would leave without masks",
        ),
        (
            policy.secure == "only" and plan.fine_tune is not None,
            "secure: only, but each hospital is to hand out the model that it tuned for itself",
        ),
        (
            least is not None and (noisy is None or noisy.noise < least.noise or noisy.clip > least.clip),
            "local_noise asks for noise on each update before it leaves, and the experiment has less",
        ),
        (
            most is not None and cost > most,
            f"local_noise.epsilon is {most}, but the rounds cost {cost:.3g}",
        ),
        (
            summed is not None and summed < policy.secure_hospitals,
            f"secure_hospitals is {policy.secure_hospitals}, but {summed} hospitals train in a round",
        ),
        (bool(unsaid), f"the experiment does not say that it uses {', '.join(map(canonical, unsaid))}"),
        (plan.rounds > limits.rounds, f"limits.rounds is {limits.rounds}, but there are {plan.rounds}"),
        (epochs > limits.epochs, f"limits.epochs is {limits.epochs}, but a training has {epochs}"),
        (batch > limits.batch_size, f"limits.batch_size is {limits.batch_size}, but a step has {batch}"),
        (threads > limits.threads, f"limits.threads is {limits.threads}, but the run has {threads}"),
    ]
    wrong = Faults()
    with wrong.kept():
        check_plugins(policy, proposal.plugins)
    for breaks, sentence in broken:
        with wrong.kept():
            if breaks:
                raise FedMergeError(f"this hospital's {FILE} refuses it: {sentence}.")
    wrong.say()


def check_plugins(policy: Policy, plugins: Sequence[object]) -> None:
    """Raise FedMergeError where a proposal needs plug-ins, by title, that this hospital does not allow."""
    allowed = {title_of(name) for name in policy.plugins}
    foreign = [str(title) for title in plugins if not isinstance(title, str) or title not in allowed]
    if foreign:
        raise FedMergeError(
            f"this hospital's {FILE} refuses it: plugins does not list {short(', '.join(foreign))}, "
            "which the experiment needs: its people look at the code, install it, and list it, or do without."
        )


def admit_plugins(folder: Path) -> None:
    """Load the plug-ins that the policy in a node's folder allows, and no other in this process."""
    restrict_plugins(locate_plugins(read_policy(folder).plugins, folder))


def check_group(policy: Policy, site: Site, kind: str) -> None:
    """Raise FedMergeError if a reply would be about too few images, or lack a number that it needs."""
    held = {"query": len(site.train), "train": len(site.train), "evaluate": len(site.val)}.get(
        kind.removesuffix(".secure")
    )
    if held is not None and held < policy.suppress_below:
        raise FedMergeError(
            f"hospital '{site.name}' tells nothing about fewer than {policy.suppress_below} images "
            f"({FILE}: suppress_below)."
        )
    lacking = [name for name in NEEDED.get(kind, ()) if name not in policy.numbers]
    if lacking:
        raise FedMergeError(
            f"hospital '{site.name}' does not let the number '{lacking[0]}' leave ({FILE}: numbers), which "
            f"every answer to '{kind}' has."
        )


def _hidden(reply: Message, counts: list[int], below: int) -> list[int]:
    """Return the counts with 0 for those that must not leave: of classes, or of images with each finding."""
    texts = reply.content.config_records.get(TEXTS)
    named = None if texts is None else texts.get("task")
    images = reply.content.metric_records[METRICS].get("num-examples")
    if named is not None and TASKS[str(named)].many and isinstance(images, int):
        return suppressed_findings(counts, images, below)
    return suppressed(counts, below)


def strip(reply: Message, policy: Policy) -> None:
    """Remove from a reply the numbers that must not leave, and hide small counts.

    That counts are hidden always leaves with them: without it they would contradict the number of images.
    """
    metrics = reply.content.metric_records.get(METRICS)
    if metrics is not None and COUNTS in metrics:
        counts = [int(count) for count in metrics[COUNTS]]  # type: ignore[union-attr]
        may = COUNTS in policy.numbers
        metrics[COUNTS] = _hidden(reply, counts, policy.suppress_below) if may else [0] * len(counts)
        if metrics[COUNTS] != counts:
            metrics[BELOW] = policy.suppress_below
    for record in reply.content.metric_records.values():
        for name in [name for name in record if name not in (*policy.numbers, COUNTS, BELOW)]:
            del record[name]
