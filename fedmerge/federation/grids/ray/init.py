"""Attach to a Ray cluster or start one, and end it without leaving anything behind."""

from __future__ import annotations

import importlib
import logging
import math
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError
from fedmerge.extras import extra
from fedmerge.federation.backend_config import BackendConfig

CONNECT = 3.0  # seconds to wait for a connection to an address


@contextmanager
def ray_initialised(backend: BackendConfig) -> Iterator[None]:
    """Initialise Ray for the block: attach to a cluster, or start a Ray of our own that ends with the block.

    A Ray that the calling program has initialised is used and left as it is. Raises FedMergeError if Ray is
    not installed, or nobody answers at the address (within seconds).
    """
    ray = _import()
    if ray.is_initialized():
        yield
        return
    address = backend.cluster
    folder = None if address else tempfile.mkdtemp(prefix="fedmerge-ray-")
    try:
        if folder is None:
            _begin(ray, address, {})
        else:
            _token_of_our_own()
            _begin(ray, address, {"_temp_dir": folder} | _resources(backend))
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _import() -> Any:
    """Import Ray with its usage statistics off: no telemetry."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; else it warns
    with extra("ray", "backend ray", "choose backend local"):
        return importlib.import_module("ray")


def _token_of_our_own() -> None:
    """Make a Ray of our own require a token that only this process and its children know.

    Otherwise any other account on this machine could run code in it. Ray itself would write a token into the
    user's home, which changes how ``ray start`` behaves there. Does nothing if RAY_AUTH_MODE is set.
    """
    if os.environ.get("RAY_AUTH_MODE") is not None:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with suppress(ImportError, AttributeError):  # re-read it in a Ray that was imported before
        importlib.import_module("ray._raylet").Config.initialize("")


def _resources(backend: BackendConfig) -> dict[str, Any]:
    """Return the options of a Ray of our own: at least the CPUs that the workers request."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "num_cpus": max(cpus, math.ceil((backend.workers or 1) * backend.cpus)),
        "include_dashboard": False,
    }


def _begin(ray: Any, address: str | None, options: dict[str, Any]) -> None:
    if address is not None:
        reach(address)
    quiet = not os.environ.get("FEDMERGE_DEBUG")
    try:
        ray.init(
            address=address or "local",
            log_to_driver=not quiet,
            logging_level=logging.ERROR if quiet else logging.INFO,
            **options,
        )
    except Exception as error:  # Ray raises various errors; the run has not begun
        ray.shutdown()
        place = f"the Ray cluster at {address}" if address else "Ray on this machine"
        if _about_a_token(error):
            raise FedMergeError(
                f"{place} asks for a token, and got none or another: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's (~/.ray/auth_token if unset)."
            ) from None
        lines = str(error).strip().splitlines() or [type(error).__name__]
        traceback = lines[0].endswith(":")  # of the other side; else the error is a sentence
        raise FedMergeError(f"{place} cannot be used: {lines[-1 if traceback else 0]}") from None


def _about_a_token(error: BaseException | None) -> bool:
    """Check whether an error, or its cause, is a cluster's refusal of a caller without its token."""
    while error is not None:
        if "InvalidAuthToken" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def reach(address: str) -> None:
    """Raise FedMergeError if nobody listens at a cluster's address; Ray itself would try for minutes."""
    known = _noted() if address == "auto" else address.removeprefix("ray://")
    if known is None:
        return  # Ray looks for a local process, and raises at once without one
    host, _, port = known.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
    except (OSError, ValueError):
        raise FedMergeError(
            f"no Ray cluster answers at {known}: start one there (ray start --head), correct the address, or "
            "leave it out to start Ray on this machine."
        ) from None


def _noted() -> str | None:
    """Return the address of the last cluster that ``ray start`` started on this machine, or None."""
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    return note.read_text().strip() or None if note.exists() else None
