"""What a server says that it is going to ask, before it asks: the whole plan, and what comes after it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from fedmerge.errors import FedMergeError
from fedmerge.federation.plan import Plan
from fedmerge.federation.policy.installed import code_version
from fedmerge.federation.section import Section
from fedmerge.training import TrainingOptions
from fedmerge.validation import LONGEST_NAME, validate
from fedmerge.version import package_version

KEY = "proposal"
LARGEST = 64 * 1024
"""Letters of a proposal's JSON."""


class SumsAsked(Section):
    """Sums over images that stay here, for a fusion: of at most how many images, and of which split."""

    images: int = Field(ge=1)
    split: Literal["val", "train"]


class Proposal(Section):
    """An experiment, as far as a hospital takes part in it.

    experiment: its name. version: of FedMerge at the server. plan: what is trained, how, how often. sums:
    what a fusion asks afterwards; None: nothing. plugins: modules that it uses.
    """

    experiment: str = Field(
        default="unnamed", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME
    )
    version: str = Field(
        default_factory=package_version, pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$", max_length=64
    )
    plan: Plan
    sums: SumsAsked | None = None
    plugins: tuple[str, ...] = ()

    def job(self) -> dict[str, Any]:
        """What the greeting says of it."""
        return {KEY: self.model_dump(mode="json")}


def read_proposal(job: Mapping[str, Any]) -> Proposal:
    """The proposal in a greeting. Raises FedMergeError for none, or one that cannot be read."""
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
    """JSON with one text for one meaning: sorted keys, no spaces, ASCII, no NaN (ValueError)."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def proposal_hash(proposal: Proposal, code: str | None = None) -> str:
    """SHA-256 of the proposal as it was understood here, and of ``code``; None: the code that runs here."""
    known = {"proposal": proposal.model_dump(mode="json"), "code": code or code_version()}
    return hashlib.sha256(canonical(known).encode()).hexdigest()


def in_words(proposal: Proposal) -> dict[str, str]:
    """What is asked and what leaves, in plain words; values from outside are written as JSON."""
    plan, rules = proposal.plan, proposal.plan.federation
    model = plan.model
    network = (
        f"{canonical(model.name)} {canonical(model.options)}" if model.options else canonical(model.name)
    )
    hidden = "under masks (secure aggregation)" if rules.secure_aggregation else "as they are"
    leaves = [f"its update of the model in each round, {hidden}"] if plan.rounds else []
    leaves += ["the model that it tuned for itself"] if plan.fine_tune is not None else []
    leaves += [f"its own part of the model ({rules.personal})"] if rules.personal != "none" else []
    if proposal.sums is not None:
        masked = "under masks" if rules.masks_statistics else "as they are"
        leaves.append(
            f"sums over up to {proposal.sums.images} images of '{proposal.sums.split}', for a fusion, "
            f"{masked}"
        )
    leaves.append("numbers: images a class, losses and scores of models on its validation images")
    shape = f"{model.image_size} px, {model.in_channels} channels, {model.n_classes} classes"
    return {
        "experiment": proposal.experiment,
        "FedMerge": f"{proposal.version} at the server, {code_version()} here",
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
    return (
        f"{options.epochs} epochs ({options.optimizer}, learning rate {options.lr:g}, {options.batch_size} "
        "images a step)"
    )
