"""A server's proposal: the whole plan, and the sums after it, before the first request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from fedmerge.errors import FedMergeError
from fedmerge.federation.aggregators import AGGREGATORS
from fedmerge.federation.plan.plan import FederationPlan
from fedmerge.federation.plan.section import Section
from fedmerge.federation.policy.installed import code_version
from fedmerge.models.zoo import plugin_of
from fedmerge.plugins import loaded_code
from fedmerge.schema.validation import LONGEST_NAME, validate
from fedmerge.training import TrainingOptions
from fedmerge.version import package_version

KEY = "proposal"
LARGEST = 64 * 1024
"""The most letters of a proposal's JSON."""


class SumsAsked(Section):
    """Sums over images for a fusion. images: the most images in them. split: of which split."""

    images: int = Field(ge=1)
    split: Literal["val", "train"]


class Proposal(Section):
    """The part of an experiment that concerns a hospital.

    experiment: its name. version: of FedMerge at the server. plan: of the training. sums: the sums that a
    fusion asks for afterwards; None: none. plugins: titles of those that a hospital needs (``plugins_of``).
    """

    experiment: str = Field(
        default="unnamed", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME
    )
    version: str = Field(
        default_factory=package_version, pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$", max_length=64
    )
    plan: FederationPlan
    sums: SumsAsked | None = None
    plugins: tuple[str, ...] = ()

    def job(self) -> dict[str, Any]:
        """Return the proposal as the greeting's job."""
        return {KEY: self.model_dump(mode="json")}


def read_proposal(job: Mapping[str, Any]) -> Proposal:
    """Read the proposal in a greeting. Raises FedMergeError if it is missing or cannot be read."""
    given = job.get(KEY)
    if given is None:
        raise FedMergeError(
            "the server's greeting does not say what it is going to ask: it must run the same version of "
            f"FedMerge as this hospital, {package_version()}."
        )
    try:
        text = canonical(given)
        if len(text) > LARGEST:
            raise FedMergeError(f"the server's proposal has {len(text):,} letters, more than {LARGEST:,}.")
        proposal = validate(Proposal, given, "the server's proposal")
        canonical(proposal.model_dump(mode="json"))
    except (ValueError, TypeError, RecursionError, ValidationError) as error:
        raise FedMergeError(f"the server's proposal cannot be read ({type(error).__name__}).") from None
    return proposal


def canonical(data: Any) -> str:
    """Return data as canonical JSON: sorted keys, no spaces, ASCII. Raises ValueError for NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def plugins_of(plan: FederationPlan) -> tuple[str, ...]:
    """Return the titles of the plug-ins without which a hospital cannot read and follow a plan."""
    aggregator = AGGREGATORS[plan.federation.aggregate.method].origin
    found = [plugin_of(plan.model.name), None if aggregator is None else aggregator.title]
    return tuple(dict.fromkeys(title for title in found if title is not None))


def code_for(proposal: Proposal) -> str:
    """Return the version of the code here that a proposal would run: FedMerge's, and that of its plug-ins."""
    known = loaded_code(proposal.plugins)
    return "+".join([code_version(), *(f"{title}@{code[:16]}" for title, code in sorted(known.items()))])


def proposal_hash(proposal: Proposal, code: str | None = None) -> str:
    """Return the SHA-256 of the proposal as read here, and of ``code`` (None: the installed code)."""
    known = {"proposal": proposal.model_dump(mode="json"), "code": code or code_for(proposal)}
    return hashlib.sha256(canonical(known).encode()).hexdigest()


def in_words(proposal: Proposal) -> dict[str, str]:
    """Describe a proposal, and what would leave, in plain words; values from outside are written as JSON."""
    plan, rules = proposal.plan, proposal.plan.federation
    model = plan.model
    network = (
        f"{canonical(model.name)} {canonical(model.options)}" if model.options else canonical(model.name)
    )
    hidden = "under masks (secure aggregation)" if rules.secure_aggregation else "as it is"
    leaves = [f"its update of the model in each round, {hidden}"] if plan.rounds else []
    leaves += ["the model that it tuned for itself"] if plan.fine_tune is not None else []
    leaves += [f"its own part of the model ({rules.personal})"] if rules.personal != "none" else []
    leaves += ["its control variate, which follows from its updates"] if rules.control_variates else []
    if proposal.sums is not None:
        masked = "under masks" if rules.masks_statistics else "as they are"
        leaves.append(
            f"sums over up to {proposal.sums.images} images of '{proposal.sums.split}', for a fusion, "
            f"{masked}"
        )
    leaves.append("numbers: images a class, losses and scores of models on its validation images")
    shape = f"{model.image_size} px, {_count(model.in_channels, 'channel')}, {model.n_classes} classes"
    return {
        "experiment": proposal.experiment,
        "FedMerge": f"{proposal.version} at the server, {code_for(proposal)} here",
        "network": f"{network}, {shape}",
        "pretrained": "yes" if model.pretrained else "no",
        "seed": str(plan.seed),
        "rounds": f"{plan.rounds}, each {_training(plan.local)}" if plan.rounds else "none",
        "fine-tuning": "none" if plan.fine_tune is None else _training(plan.fine_tune),
        "aggregation": canonical(rules.aggregate.model_dump(mode="json")),
        "privacy": "none" if rules.privacy is None else canonical(rules.privacy.model_dump(mode="json")),
        "faults": canonical([fault.told() for fault in rules.faults]) if rules.faults else "none",
        "plug-ins": ", ".join(map(canonical, proposal.plugins)) or "none",
        "leaves": "; ".join(leaves),
    }


def _training(options: TrainingOptions) -> str:
    how = f"{options.optimizer}, learning rate {options.lr:g}, {_count(options.batch_size, 'image')} a step"
    return f"{_count(options.epochs, 'epoch')} ({how})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
