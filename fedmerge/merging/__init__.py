"""Fusion: what the server does with many models.

One file a family of methods; each method is one function registered in ``FUSION``; ``merge`` calls any of
them by name. To add a method, write a function like those in ``averages`` and import its file here.
"""

from fedmerge.merging import (
    averages,
    controls,
    ensembles,
    federated,
    fisher,
    model_stock,
    soups,
    task_vectors,
)
from fedmerge.merging.matching import (
    gradient,
    hungarian_fusion,
    kmeans_fusion,
    rebasin,
    regmean,
    transport,
)
from fedmerge.merging.merge import MergeResult, merge
from fedmerge.merging.methods import FUSION, Context, Merged
from fedmerge.merging.parents import Parents

__all__ = [
    "FUSION",
    "Context",
    "MergeResult",
    "Merged",
    "Parents",
    "averages",
    "controls",
    "ensembles",
    "federated",
    "fisher",
    "gradient",
    "hungarian_fusion",
    "kmeans_fusion",
    "merge",
    "model_stock",
    "rebasin",
    "regmean",
    "soups",
    "task_vectors",
    "transport",
]
