"""What a caller of a Ray cluster needs to know before it attaches: whether it answers, and its token.

A Ray from 2.60 on asks for a token where a file ``~/.ray/auth_token`` lies on the head's machine, unless told
otherwise, but a program that attaches sends none unless RAY_AUTH_MODE says so. So the cluster is asked first.
"""

from __future__ import annotations

import importlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from fedmerge.errors import FedMergeError

CONNECT = 3.0  # seconds to wait for a connection to an address
ASK = 10.0  # seconds to wait for a cluster's word on its token
LOOPBACK = {"127.0.0.1", "::1"}
MODE = "RAY_AUTH_MODE"
SOCKET = "--raylet_socket_name="


def admit(address: str) -> str:
    """Make this process able to attach to a cluster: reach it, and find its token where it asks for one.

    address: ``auto``, HOST:PORT or ray://HOST:PORT; returned as Ray takes it, ``auto`` as HOST:PORT. Where
    RAY_AUTH_MODE is set, it counts. Raises FedMergeError if nobody answers within seconds, or the cluster
    asks for a token and none is found, or refuses the one that is; and for HOST:PORT where no Ray runs on
    this machine, because Ray would look for one for a while, and then abort the process.
    """
    known, client = reach(address), address.startswith("ray://")
    if not client and not any(True for _ in _raylets()):
        raise FedMergeError(
            f"this machine is no node of the Ray cluster at {known}, so it cannot attach by HOST:PORT: join "
            f"it first (ray start --address={known}), or attach as a client: ray://HOST:10001."
        )
    mode = os.environ.get(MODE)
    if mode in (None, "token", "disabled") and refuses(known, client=client):
        token = "" if mode == "disabled" else _token()
        if not token or refuses(known, token, client=client):
            raise FedMergeError(no_token(address))
        if mode is None:
            set_mode({MODE: "token"})
    return address if client else known


def refuses(address: str, token: str = "", *, client: bool = False) -> bool:
    """Whether the cluster at HOST:PORT refuses a caller with this token; with none, whether it asks for one.

    client: it is a port for clients.
    """
    with_token = (("authorization", f"Bearer {token}"),) if token else ()
    grpc: Any = importlib.import_module("grpc")
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        method = "RayletDriver/ClusterInfo" if client else "NodeInfoGcsService/CheckAlive"
        try:
            channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=ASK, metadata=with_token)
        except (
            grpc.RpcError
        ) as refusal:  # a port for clients knows no such call, but asks for its token first
            return refusal.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def set_mode(variables: Mapping[str, str | None]) -> None:
    """Set variables of the environment about tokens (None: unset), and let Ray read them again."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    with suppress(ImportError, AttributeError):  # re-read it in a Ray that was imported before
        importlib.import_module("ray._raylet").Config.initialize("")


def no_token(address: str) -> str:
    """Return the sentence on a cluster's refusal of this caller."""
    return (
        f"the Ray cluster at {address} asks for a token, and got none or another: copy the file "
        "~/.ray/auth_token of the machine where it was started to this user's home (or set "
        "RAY_AUTH_TOKEN_PATH to a copy, or RAY_AUTH_TOKEN to its content), with RAY_AUTH_MODE=token."
    )


def _token() -> str:
    """Return the token that Ray will find: in the environment, in the file that it names, or in the user's
    home; empty where there is none."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
        return path.read_text().strip()
    except (OSError, RuntimeError, UnicodeDecodeError):
        return ""


def about_a_token(error: BaseException | None) -> bool:
    """Check whether an error, or its cause, is a cluster's refusal of a caller without its token."""
    while error is not None:
        if any(word in str(error) for word in ("InvalidAuthToken", "AuthenticationError", "Unauthenticated")):
            return True
        error = error.__cause__ or error.__context__
    return False


def reach(address: str) -> str:
    """Return a cluster's HOST:PORT.

    Raises FedMergeError if nobody listens there; Ray itself would try for minutes.
    """
    known = _on_this_machine() if address == "auto" else address.removeprefix("ray://")
    host, _, port = known.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
    except (OSError, ValueError):
        raise FedMergeError(
            f"no Ray cluster answers at {known}: start one there (ray start --head), correct the address, or "
            "leave it out to start Ray on this machine."
        ) from None
    return known


def check_same(there: str, address: str) -> None:
    """Raise FedMergeError unless ``address`` is answered, and is of the cluster whose head is at ``there``.

    The port must be the head's, and so must the host, unless it is this machine's loopback. The port of
    ``ray://`` is another one, so the host alone is compared.
    """
    known = reach(address)
    (host, port), (head, of_head) = (each.rsplit(":", 1) for each in (known, there))
    at, at_head = _numbers(host), _numbers(head)
    if (port == of_head or address.startswith("ray://")) and (at & at_head or at & LOOPBACK):
        return
    raise FedMergeError(
        f"this program has initialised Ray already, at {there}, so it cannot work at {address}: leave the "
        "address out, or call ray.shutdown() first."
    )


def _numbers(host: str) -> set[str]:
    """Return the numeric addresses of a host."""
    return {str(found[4][0]) for found in socket.getaddrinfo(host.strip("[]"), None)}


def _on_this_machine() -> str:
    """Return the address that ``auto`` means: the last one that ``ray start`` noted, or the one that runs.

    Raises FedMergeError where no cluster runs on this machine, or several of which none is noted.
    """
    noted, running = _noted(), _running()
    if noted is not None and (noted in running or not running):
        return noted
    if len(running) == 1:
        return running.pop()
    if running:
        raise FedMergeError(
            f"{len(running)} Ray clusters run on this machine ({', '.join(sorted(running))}): give the "
            "address of one instead of auto."
        )
    raise FedMergeError(
        "no Ray cluster runs on this machine: start one (ray start --head), give its HOST:PORT, or leave the "
        "address out to start Ray with the run."
    )


def _noted() -> str | None:
    """Return the address of the last cluster that ``ray start`` started on this machine, or None."""
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    return note.read_text().strip() or None if note.exists() else None


def _running() -> set[str]:
    """Return the addresses of the clusters that have a node on this machine."""
    found = set()
    for arguments in _raylets():
        found |= {each.partition("=")[2] for each in arguments if each.startswith("--gcs-address=")}
    return found


def _raylets() -> Iterator[list[str]]:
    """Yield the arguments of each process that makes this machine a node of a cluster, and can be reached."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet":
            arguments = process.info["cmdline"] or []
            sockets = [each.partition("=")[2] for each in arguments if each.startswith(SOCKET)]
            if all(Path(socket).exists() for socket in sockets):  # else it is that of a container
                yield arguments
