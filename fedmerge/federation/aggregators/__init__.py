"""Aggregators: how the updates of one round become one model.

``contract`` is their interface, and holds the registry. To add an aggregator, write a
function like those in ``means`` and import its file here: its options are its keyword-only parameters.
"""

from fedmerge.federation.aggregators import fused, krum, means, order, scaffold
from fedmerge.federation.aggregators.contract import (
    AGGREGATORS,
    Aggregated,
    AggregationContext,
    Control,
    Update,
)
from fedmerge.federation.aggregators.krum import fewest_updates

__all__ = [
    "AGGREGATORS",
    "Aggregated",
    "AggregationContext",
    "Control",
    "Update",
    "fewest_updates",
    "fused",
    "krum",
    "means",
    "order",
    "scaffold",
]
