"""The machine of a run: its device, threads, determinism, and their description for the provenance."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from fedmerge.models.devices import checked_device

PACKAGES = ("fedmerge", "torch", "torchvision", "flwr", "numpy", "pandas", "medmnist")


def pick_device(name: str) -> str:
    """Return a device; ``auto`` is CUDA if there is one, else the CPU. Raises FedMergeError if unusable."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return checked_device(name)


@contextmanager
def reproducible(threads: int | None) -> Iterator[None]:
    """Use deterministic algorithms and a fixed number of threads inside the block; restore both after it."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    settle(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        memory.fill_uninitialized_memory = fill


def settle(threads: int | None) -> None:
    """Set deterministic algorithms and a fixed number of threads for the whole process.

    PyTorch's ``use_deterministic_algorithms`` also imports its compiler, which takes more than a second, and
    a hospital may start a process for each message.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    memory: Any = torch.utils.deterministic  # filling it costs time and changes nothing that is read
    torch.set_deterministic_debug_mode("warn")
    memory.fill_uninitialized_memory = False
    if threads is not None:
        torch.set_num_threads(threads)


def describe(device: str) -> dict[str, Any]:
    """Return versions, device, threads and platform, as a run's provenance has them."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "CPU"
    return {
        "versions": versions(),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the versions that decide the last bits, by package."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
