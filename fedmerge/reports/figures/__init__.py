"""The figures of a run and of a study: pure functions from a cohort or a frame to a matplotlib Figure.

Each takes the figure's width in inches and fits its layout to it (``WIDE`` for a page, ``NARROW`` for a
phone). Each has a ``describe_`` twin that says in words, with numbers, what the figure shows. There is no
global state and no pyplot, so they work headless and in notebooks.
"""

from fedmerge.reports.figures.classes import class_shares, describe_class_shares
from fedmerge.reports.figures.cost import cost, describe_cost
from fedmerge.reports.figures.curves import describe_rounds, rounds
from fedmerge.reports.figures.federation import describe_federation_map, federation_map
from fedmerge.reports.figures.forest import describe_forest, forest
from fedmerge.reports.figures.hospitals import describe_site_scores, site_scores
from fedmerge.reports.figures.merging import (
    describe_effective_rank,
    describe_merges,
    describe_similarity,
    effective_rank,
    merges,
    similarity,
)
from fedmerge.reports.figures.pictures import describe_samples, samples
from fedmerge.reports.figures.reliability import describe_reliability, reliability
from fedmerge.reports.figures.scores import accuracy, describe_accuracy
from fedmerge.reports.figures.severity import describe_severity, severity
from fedmerge.reports.figures.style import NARROW, WIDE, Caption, render
from fedmerge.reports.figures.weights import coefficients, describe_coefficients

__all__ = [
    "NARROW",
    "WIDE",
    "Caption",
    "accuracy",
    "class_shares",
    "coefficients",
    "cost",
    "describe_accuracy",
    "describe_class_shares",
    "describe_coefficients",
    "describe_cost",
    "describe_effective_rank",
    "describe_federation_map",
    "describe_forest",
    "describe_merges",
    "describe_reliability",
    "describe_rounds",
    "describe_samples",
    "describe_severity",
    "describe_similarity",
    "describe_site_scores",
    "effective_rank",
    "federation_map",
    "forest",
    "merges",
    "reliability",
    "render",
    "rounds",
    "samples",
    "severity",
    "similarity",
    "site_scores",
]
