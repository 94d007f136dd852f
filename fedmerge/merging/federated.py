"""The model of the rounds, before any hospital fine-tuned it: what a fusion has to beat."""

from __future__ import annotations

from fedmerge.merging.checks import shared_start
from fedmerge.merging.methods import FUSION, Context, Merged, uniform
from fedmerge.merging.parents import Parents
from fedmerge.registry import Needs


@FUSION.method(
    "federated",
    title="The federated model",
    paper="FedAvg, arXiv 1602.05629",
    needs=Needs(shared_start=True),
)
def federated(parents: Parents, context: Context) -> Merged:
    """Take the model from which the hospitals fine-tuned: that of the federated rounds, and no parent.

    A reference for whatever is made of the fine-tuned models: where it is better, fine-tuning and merging
    lose what the rounds had. Without rounds it is the initialisation, whose head was just drawn. Coefficients
    are 1/M, because every hospital had a part in the rounds. Raises FedMergeError without a start of the
    models' architecture, and for one that holds NaN or infinity.
    """
    start = shared_start(parents, context, "federated")
    return Merged(parents.module({key: value.clone() for key, value in start.items()}), uniform(parents))
