"""The room on a cluster: how many workers or tasks fit, and the share of a GPU of each."""

from __future__ import annotations

import math
import sys
from importlib import import_module

from fedmerge.cluster.config import BackendConfig
from fedmerge.errors import FedMergeError


def capacity(backend: BackendConfig, device: str) -> tuple[int, float]:
    """Return how many tasks the initialised cluster does at a time, and the share of a GPU of each.

    device: where a CUDA device is named and the backend names no share, all tasks share the GPUs evenly.
    Raises FedMergeError where the cluster has no room for them.
    """
    have = import_module("ray").cluster_resources()
    gpus = backend.gpus if backend.gpus is not None or device.startswith("cuda") else 0.0
    count = places(backend, have, gpus, None)
    return count, have.get("GPU", 0.0) / count if gpus is None else gpus


def places(backend: BackendConfig, have: dict[str, float], gpus: float | None, most: int | None) -> int:
    """Return the number of workers: as configured, or as many as fit, and at most ``most``.

    Raises FedMergeError where the cluster has no room for them.
    """
    room = math.floor(have.get("CPU", 0.0) / backend.cpus + 1e-9)
    if gpus:
        room = min(room, math.floor(have.get("GPU", 0.0) / gpus + 1e-9))
    wanted = min(backend.workers or 1, most or sys.maxsize)
    if room < wanted:
        share = f"{backend.cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        fewer = (
            "lower --workers, --cpus or --gpus" if wanted > 1 else "lower --cpus or --gpus, the share of one"
        )
        raise FedMergeError(
            f"the Ray cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs, room for "
            f"{room} workers of {share}, but {wanted} are needed: {fewer}."
        )
    return min(backend.workers or room, most or sys.maxsize)


def first_line(error: BaseException) -> str:
    """Return the cause and first line of one of Ray's long error messages."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
