"""Packages that only an extra of FedMerge installs; the error for a missing one names the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedmerge.errors import FedMergeError


@contextmanager
def extra(name: str, what: str, otherwise: str = "") -> Iterator[None]:
    """Import packages of the extra ``name`` in the block: ``with extra("ray", "backend ray"): import ray``.

    what: the feature that needs them, as subject of the sentence. otherwise: an alternative without them.
    Raises FedMergeError, with the command that installs the extra, where one is missing or cannot be loaded.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or name).partition(".")[0]
        wrong = (
            "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        )
        raise FedMergeError(
            f"{what} needs the package {package}, which {wrong}: pip install 'fedmerge[{name}]'"
            f"{f', or {otherwise}' if otherwise else ''}."
        ) from None
