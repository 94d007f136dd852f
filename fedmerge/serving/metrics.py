"""Counts and times of a service for Prometheus; no client's name, no image's."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"fedmerge_serve_{name}", what, labels, registry=self.registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"fedmerge_serve_{name}", what, labels, registry=self.registry)

        self.batches = counter("batches", "Batches answered.")
        self.images = counter("images", "Images answered.")
        self.refused = counter("refused", "Calls refused, by HTTP status.", "status")
        self.fallbacks = counter("fallbacks", "Batches that the guard's reference answered.")
        self.alarms = counter("drift_alarms", "Streams whose drift alarm went off.")
        self.unkept = counter("history_faults", "Batches that the history could not keep.")
        self.streams = gauge("streams", "Streams with a node.")
        self.waiting = gauge("waiting", "Batches that are read, wait or are computed.")
        self.share = gauge(
            "share", "A hospital's share of the latest batch's model, by part.", "hospital", "part"
        )
        self.seconds = Histogram(
            "fedmerge_serve_seconds",
            "Seconds of a batch, by step.",
            ("step",),
            buckets=BUCKETS,
            registry=self.registry,
        )

    def answered(self, images: int, seconds: Mapping[str, float]) -> None:
        """Count a batch."""
        self.batches.inc()
        self.images.inc(images)
        for step, spent in seconds.items():
            self.seconds.labels(step).observe(spent)

    def leaned(self, part: str, shares: Mapping[str, float]) -> None:
        """Note the coefficients of a part, encoder or head."""
        for hospital, share in shares.items():
            self.share.labels(hospital, part).set(share)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' format."""
        return generate_latest(self.registry)
