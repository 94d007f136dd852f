"""The version of FedMerge, which only pyproject.toml holds."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the installed version of FedMerge; ``0`` where it is not installed."""
    try:
        return version("fedmerge")
    except PackageNotFoundError:
        return "0"
