"""FedMerge: hospitals train, a server fuses, an unseen hospital adapts.

    import fedmerge as fm
    result = fm.run("configs/quickstart.yaml")
    study = fm.bench("configs/bench-inmerge.yaml")
    fused = fm.merge(models, "greedy", data=x, labels=y).model
    node = fm.EntropyAdaptive(models); logits = node(batch)
    fm.InMerge(model).attach(optimizer)

Names are loaded when first used, so ``fm.merge`` works where Flower is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fedmerge.errors import FedMergeError

if TYPE_CHECKING:
    from fedmerge import analysis
    from fedmerge.analysis import METRICS, Predictions
    from fedmerge.analysis.diagnosis import ANALYSES, Finding, Subject
    from fedmerge.cluster.config import BackendConfig
    from fedmerge.data import SOURCES, Arrays, SourceRequest, streams
    from fedmerge.experiment.folder.results import Result
    from fedmerge.federation.aggregators import AGGREGATORS, Aggregated, AggregationContext, Update
    from fedmerge.merging import FUSION, Context, Merged, Parents
    from fedmerge.merging.merge import MergeResult, merge
    from fedmerge.models import ModelPool
    from fedmerge.models.zoo import NETWORKS
    from fedmerge.plugins import load_plugins
    from fedmerge.registry import Method, Needs
    from fedmerge.reports import figures
    from fedmerge.reports.registry import FIGURES
    from fedmerge.testtime import TESTTIME, EntropyAdaptive, Node, StreamAdaptive, Trace
    from fedmerge.trackers import TRACKERS, Tracker
    from fedmerge.training import InMerge
    from fedmerge.workflows.analyse import analyse
    from fedmerge.workflows.bench.bench import bench
    from fedmerge.workflows.bench.study import Study, open_study
    from fedmerge.workflows.run import run

    __version__: str

_HOMES = {
    "run": "fedmerge.workflows.run",
    "BackendConfig": "fedmerge.cluster.config",
    "Result": "fedmerge.experiment.folder.results",
    "bench": "fedmerge.workflows.bench.bench",
    "Study": "fedmerge.workflows.bench.study",
    "open_study": "fedmerge.workflows.bench.study",
    "merge": "fedmerge.merging",
    "MergeResult": "fedmerge.merging",
    "EntropyAdaptive": "fedmerge.testtime",
    "StreamAdaptive": "fedmerge.testtime",
    "InMerge": "fedmerge.training",
    "ModelPool": "fedmerge.models",
    "analyse": "fedmerge.workflows.analyse",
    "ANALYSES": "fedmerge.analysis.diagnosis",
    "Finding": "fedmerge.analysis.diagnosis",
    "Subject": "fedmerge.analysis.diagnosis",
    "load_plugins": "fedmerge.plugins",
    # for plug-ins: registries, and what a function or class in one gets and gives
    "FUSION": "fedmerge.merging",
    "Parents": "fedmerge.merging",
    "Context": "fedmerge.merging",
    "Merged": "fedmerge.merging",
    "Needs": "fedmerge.registry",
    "TESTTIME": "fedmerge.testtime",
    "Node": "fedmerge.testtime",
    "Trace": "fedmerge.testtime",
    "AGGREGATORS": "fedmerge.federation.aggregators",
    "Update": "fedmerge.federation.aggregators",
    "AggregationContext": "fedmerge.federation.aggregators",
    "Aggregated": "fedmerge.federation.aggregators",
    "NETWORKS": "fedmerge.models.zoo",
    "SOURCES": "fedmerge.data",
    "SourceRequest": "fedmerge.data",
    "Arrays": "fedmerge.data",
    "METRICS": "fedmerge.analysis",
    "Predictions": "fedmerge.analysis",
    "FIGURES": "fedmerge.reports.registry",
    "TRACKERS": "fedmerge.trackers",
    "Tracker": "fedmerge.trackers",
}

_MODULES = {
    "analysis": "fedmerge.analysis",
    "figures": "fedmerge.reports.figures",
    "streams": "fedmerge.data.streams",
}

__all__ = [
    "AGGREGATORS",
    "ANALYSES",
    "FIGURES",
    "FUSION",
    "METRICS",
    "NETWORKS",
    "SOURCES",
    "TESTTIME",
    "TRACKERS",
    "Aggregated",
    "AggregationContext",
    "Arrays",
    "BackendConfig",
    "Context",
    "EntropyAdaptive",
    "FedMergeError",
    "Finding",
    "InMerge",
    "MergeResult",
    "Merged",
    "ModelPool",
    "Needs",
    "Node",
    "Parents",
    "Predictions",
    "Result",
    "SourceRequest",
    "StreamAdaptive",
    "Study",
    "Subject",
    "Trace",
    "Tracker",
    "Update",
    "analyse",
    "analysis",
    "bench",
    "figures",
    "load_plugins",
    "merge",
    "methods",
    "open_study",
    "run",
    "streams",
]


def methods() -> list[Method]:
    """Return all registered methods: fusion, then test-time, then the aggregators of federated rounds."""
    merging, testtime, aggregators = (
        importlib.import_module(f"fedmerge.{room}")
        for room in ("merging", "testtime", "federation.aggregators")
    )
    return [*merging.FUSION, *testtime.TESTTIME, *aggregators.AGGREGATORS]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("fedmerge.version").package_version()
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedmerge' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
