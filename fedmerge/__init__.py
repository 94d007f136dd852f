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
    from fedmerge.cluster.config import BackendConfig
    from fedmerge.data import streams
    from fedmerge.experiment.bench.bench import bench
    from fedmerge.experiment.bench.study import Study, open_study
    from fedmerge.experiment.results import Result
    from fedmerge.experiment.run import run
    from fedmerge.merging.merge import MergeResult, merge
    from fedmerge.models import ModelPool
    from fedmerge.registry import Method
    from fedmerge.testtime import EntropyAdaptive, StreamAdaptive
    from fedmerge.training import InMerge

    __version__: str

_HOMES = {
    "run": "fedmerge.experiment.run",
    "BackendConfig": "fedmerge.cluster.config",
    "Result": "fedmerge.experiment.results",
    "bench": "fedmerge.experiment.bench.bench",
    "Study": "fedmerge.experiment.bench.study",
    "open_study": "fedmerge.experiment.bench.study",
    "merge": "fedmerge.merging",
    "MergeResult": "fedmerge.merging",
    "EntropyAdaptive": "fedmerge.testtime",
    "StreamAdaptive": "fedmerge.testtime",
    "InMerge": "fedmerge.training",
    "ModelPool": "fedmerge.models",
}

__all__ = [
    "BackendConfig",
    "EntropyAdaptive",
    "FedMergeError",
    "InMerge",
    "MergeResult",
    "ModelPool",
    "Result",
    "StreamAdaptive",
    "Study",
    "bench",
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
    if name == "streams":
        return importlib.import_module("fedmerge.data.streams")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedmerge' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
