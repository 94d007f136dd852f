"""Networks and their weights: the zoo, what a network sees, arithmetic on state dicts, pools on disk.

Models are ordinary ``nn.Module``s. This room knows no hospital and no method: it builds a network from a
specification, averages weights under one stated batch-norm policy, and keeps models as files that can be
read without running anything.
"""

from fedmerge.models.cards import ModelCard, Origin
from fedmerge.models.entries import running_pairs
from fedmerge.models.inputs import Normalisation
from fedmerge.models.pool import ModelPool
from fedmerge.models.predict import predict
from fedmerge.models.state import (
    BatchNormPolicy,
    RunningMean,
    State,
    average,
    check_alike,
    non_finite,
    state_hash,
)
from fedmerge.models.zoo import ModelSpec, build, default_normalisation, names

__all__ = [
    "BatchNormPolicy",
    "ModelCard",
    "ModelPool",
    "ModelSpec",
    "Normalisation",
    "Origin",
    "RunningMean",
    "State",
    "average",
    "build",
    "check_alike",
    "default_normalisation",
    "names",
    "non_finite",
    "predict",
    "running_pairs",
    "state_hash",
]
