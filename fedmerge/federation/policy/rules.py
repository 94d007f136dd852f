"""A node's policy.yaml: what it takes part in, and what may leave it. The defaults are strict."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from fedmerge.errors import unknown
from fedmerge.federation.plan.section import Section
from fedmerge.federation.privacy.secure_sum import FEWEST
from fedmerge.schema.validation import Distinct, is_there, load_yaml, validate
from fedmerge.storage.files import write_text

FILE = "policy.yaml"
NUMBERS = (
    "num-examples", "num-validation", "class-counts", "suppressed-below",
    "loss", "accuracy", "balanced_accuracy", "auroc", "kappa", "temperature",
    "seconds", "steps", "merges", "forgot", "round", "known", "images", "delay", "pixel-spacing",
)  # fmt: skip
"""The names of all numbers in a hospital's replies."""
ASKED_FOR = ("pixel-spacing",)
"""Numbers that leave only where a hospital adds them to those that may."""
USUAL = tuple(name for name in NUMBERS if name not in ASKED_FOR)

Names = Annotated[tuple[str, ...], Distinct]


class Limits(Section):
    """The most that a proposal may ask for: federated rounds, epochs of one training, images per step,
    threads of a process, scores of models in one run."""

    rounds: int = Field(default=500, ge=0)
    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=4096, ge=1)
    threads: int = Field(default=64, ge=1)
    scores: int = Field(default=10_000, ge=0)


class LocalNoise(Section):
    """The least local noise on a hospital's update before it leaves. clip: the largest clip. noise: the least
    noise, in units of the clip. epsilon: the most that all its noised updates, of all experiments, may cost
    at the hospital's own ``delta``; None: no limit."""

    clip: float = Field(gt=0)
    noise: float = Field(gt=0)
    epsilon: float | None = Field(default=None, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)


class Policy(Section):
    """The fields of policy.yaml; ``TEMPLATE`` explains them to the hospital."""

    approval: Literal["required", "any"] = "required"
    faults: Literal["never", "allow"] = "never"
    pretrained: bool = False
    networks: Literal["any"] | Names = "any"
    own_model: bool = True
    sums: bool = False
    minimum_images: int = Field(default=16, ge=1)
    suppress_below: int = Field(default=5, ge=1)
    inspection: bool = False
    inspection_checks: bool = False
    numbers: Names = USUAL
    secure: Literal["only", "allow"] = "allow"
    secure_hospitals: int = Field(default=FEWEST, ge=FEWEST)
    peers: Literal["listed", "first-use"] = "listed"
    local_noise: LocalNoise | None = None
    plugins: Names = ()
    limits: Limits = Limits()

    @field_validator("numbers")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [str(unknown("number", name, NUMBERS)) for name in names if name not in NUMBERS]
        if wrong:
            raise ValueError(*wrong)
        return names


def read_policy(folder: Path) -> Policy:
    """Read the policy in a node's folder; without a policy.yaml, return the strict defaults.

    Raises FedMergeError with all faults of the file at once, including unknown fields.
    """
    path = folder / FILE
    return validate(Policy, load_yaml(path), str(path)) if is_there(path) else Policy()


def policy_hash(folder: Path) -> str:
    """Return the SHA-256 of the file policy.yaml; of no bytes if it is missing."""
    path = folder / FILE
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()


def write_policy(folder: Path) -> Path:
    """Write the strict policy with its explanations, unless a policy.yaml exists; return its path."""
    path = folder / FILE
    if not is_there(path):
        write_text(path, TEMPLATE)
    return path


TEMPLATE = f"""\
# What this hospital takes part in, and what may leave it. Read anew for every message; no server changes it.
# `fedmerge deployment policy FOLDER` prints what is in force.

# required: a person approves each experiment first (`fedmerge deployment requests`, `approve`, `refuse`).
# any: whatever keeps to this file.
approval: required

# A server can have a hospital misbehave on purpose (label-flip, nan), to test a federation: never, allow.
faults: never

# May the node fetch pretrained weights from the internet?
pretrained: false

# Networks that may be trained: any, or a list of names.
networks: any

# May the model that this hospital tuned for itself leave? If not, only updates in federated rounds do.
own_model: true

# May sums over images leave (fusion with `fusion_data: {{from: hospitals}}`)? Over at least how many images?
sums: false
minimum_images: 16

# Small counts: if a class has fewer images than this, no class is counted (all are told as 0), because the
# others and the total would give it away. Nothing is told about a group of fewer images.
suppress_below: 5

# May the server ask, before any experiment, for sizes, classes, a histogram of intensities and the number of
# duplicates (`fedmerge deployment inspect`)? Small counts stay hidden, as above.
inspection: false
# … and what the checks of the images find: near duplicates, negatives, sizes and kinds of files, and how well
# brightness alone tells each class? (`fedmerge deployment inspect --checks`)
inspection_checks: false

# The numbers that may leave, by name. Take out what must stay; what a request cannot do without is refused.
# Add pixel-spacing to let the median mm between pixels onto the cards of this hospital's models.
numbers: [{", ".join(USUAL[:8])},
          {", ".join(USUAL[8:])}]

# only: updates leave under the masks of secure aggregation or not at all. allow: as the experiment says.
secure: allow
# The fewest hospitals whose updates may be summed under masks, at the beginning and at the end of a sum.
secure_hospitals: {FEWEST}
# Whose keys count in secure aggregation: listed, those in peers.yaml; first-use, those that come first.
peers: listed

# The least noise on an update before it leaves. epsilon: the most that all noised updates of this hospital
# may cost together, by its own record and at its own delta; without it there is no limit.
# local_noise: {{clip: 1.0, noise: 4.0, epsilon: 8, delta: 0.00001}}

# Plug-ins that an experiment may use here: modules that are installed, or files (/opt/fedmerge/mine.py).
# Nothing else is loaded. An approval holds for the code as it was: after a change people decide again.
plugins: []

# The most that an experiment may ask for.
limits: {{rounds: 500, epochs: 100, batch_size: 4096, threads: 64, scores: 10000}}
"""
