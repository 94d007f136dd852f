"""The version of FedMerge, which pyproject.toml alone says."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version of FedMerge; ``0`` where it is not installed."""
    try:
        return version("fedmerge")
    except PackageNotFoundError:
        return "0"
