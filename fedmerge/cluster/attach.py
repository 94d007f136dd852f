"""Attach to a Ray cluster or start one, and end it without leaving anything behind."""

from __future__ import annotations

import importlib
import logging
import math
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fedmerge.cluster.access import MODE, about_a_token, admit, check_same, no_token, set_mode
from fedmerge.cluster.config import BackendConfig
from fedmerge.cluster.cpus import available_cpus
from fedmerge.errors import FedMergeError
from fedmerge.extras import extra


@contextmanager
def ray_initialised(backend: BackendConfig) -> Iterator[None]:
    """Initialise Ray for the block: attach to a cluster, or start a Ray of our own that ends with the block.

    A Ray that the calling program has initialised is used and left as it is. Raises FedMergeError if Ray is
    not installed, nobody answers at the address (within seconds), the program has initialised Ray elsewhere,
    the cluster asks for a token and none is found, or Ray is not there after the backend's ``patience``.
    """
    ray = _import()
    if ray.is_initialized():
        if backend.address is not None:
            check_same(ray.get_runtime_context().gcs_address, backend.address)
        yield
        return
    address = backend.cluster
    folder = None if address else tempfile.mkdtemp(prefix="fedmerge-ray-")
    before = {name: os.environ.get(name) for name in (MODE, "RAY_AUTH_TOKEN")}
    try:
        options: dict[str, Any] = {}
        if address is not None:
            address = admit(address)
        else:
            _token_of_our_own()
            options = {"_temp_dir": folder} | _resources(backend)
        with _sigterm_kept() as keep:
            with _at_most(backend.patience, address):
                _begin(ray, address, options)
            keep()
            try:
                yield
            finally:
                ray.shutdown()
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        set_mode(before)


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
    if os.environ.get(MODE) is not None:
        return
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    set_mode({MODE: "token"})


def _resources(backend: BackendConfig) -> dict[str, Any]:
    """Return the options of a Ray of our own: at least the CPUs that the workers request."""
    return {
        "num_cpus": max(available_cpus(), math.ceil((backend.workers or 1) * backend.cpus)),
        "include_dashboard": False,
    }


def _begin(ray: Any, address: str | None, options: dict[str, Any]) -> None:
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
        if address is not None and about_a_token(error):
            raise FedMergeError(no_token(address)) from None
        lines = str(error).strip().splitlines() or [type(error).__name__]
        traceback = lines[0].endswith(":")  # of the other side; else the error is a sentence
        raise FedMergeError(f"{place} cannot be used: {lines[-1 if traceback else 0]}") from None


@contextmanager
def _sigterm_kept() -> Iterator[Callable[[], None]]:
    """Set SIGTERM back after the block to what it did before; yield a function that does so at once.

    Ray makes it exit the process with code 15, which is better than nothing where nobody handles it.
    """
    before = signal.getsignal(signal.SIGTERM)
    ours = before is not None and threading.current_thread() is threading.main_thread()

    def back() -> None:
        if ours and before is not signal.SIG_DFL:
            signal.signal(signal.SIGTERM, before)

    try:
        yield back
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _at_most(seconds: float, address: str | None) -> Iterator[None]:
    """Raise FedMergeError where the block takes longer. In another thread than the main one it may."""
    lock, over, late = threading.Lock(), False, False

    def interrupt() -> None:
        nonlocal late
        with lock:
            if not over:
                late = True
                signal.pthread_kill(main, signal.SIGINT)  # it also ends a sleep

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    main = threading.get_ident()
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # a shell's background job; what comes from elsewhere stays ignored

        def ours(number: int, frame: FrameType | None) -> None:
            if late:
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, ours)
    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if not late:
            raise
        place = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise FedMergeError(
            f"{place} was not ready after {seconds:g} s: see that it runs (ray status), or give it longer "
            "(patience of the backend)."
        ) from None
    finally:
        with lock:
            over = True
        timer.cancel()
        if before is signal.SIG_IGN:
            signal.signal(signal.SIGINT, before)
