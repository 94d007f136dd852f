"""Answer one message to a hospital with the installed FedMerge, in place of flwr-clientapp.

Flower's own program unpacks the bundle that came with the run and imports the app that it names. This one
checks the bundle without unpacking it (``bundle``), and answers only with this package's own app. It has
imported everything before a message comes.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.bundle import CLIENT, check_bundle
from fedmerge.federation.deployment.node_folder import SECRET
from fedmerge.federation.messages.tensors import named
from fedmerge.federation.policy.audit import audit

log = logging.getLogger("fedmerge.clientapp")
APP = "flwr-clientapp"  # the only kind of task that is answered
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
POLL = 0.25  # seconds between two checks for a message
LOOK = 2.0  # the same, while pieces of a message are missing


def reply_of(
    app: ClientApp, message: Message, context: Context, bundle: bytes, kind: str, folder: Path
) -> Message:
    """Return the app's reply to a message, or an error with the reason, without the text of an exception.

    bundle: of the run. kind: of the task; Flower has other kinds, whose programs run code of the bundle.
    folder: of the node.
    """
    try:
        if kind != APP:
            raise FedMergeError(f"a run of the kind '{kind}' is refused: a hospital answers {APP} alone.")
        check_bundle(bundle)
    except FedMergeError as error:
        log.error("refused: %s", error)
        asked = {"run": context.run_id, "kind": named(message.metadata.message_type)}
        audit(folder, "refused", **asked, reason=str(error))
        return Message(Error(ErrorCode.LOAD_CLIENT_APP_EXCEPTION, str(error)), reply_to=message)
    try:
        return app(message=message, context=context)
    except Exception as error:
        log.exception("the app raised an exception")  # its text may name files, so it stays here
        reason = f"{type(error).__name__}, a fault of FedMerge or of the machine: the node's log has the rest"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def own_app() -> ClientApp:
    """Return the hospital's app of this package, whatever app a run names."""
    module, _, name = CLIENT.partition(":")
    app = getattr(importlib.import_module(module), name)
    assert isinstance(app, ClientApp)
    return app


class Abandoned(Exception):
    """The SuperNode gave up the message of this task, and another task waits: ``token`` and ``kind``.

    A SuperNode makes a task before it has the message, and drops it if the run ends meanwhile (flwr 1.42);
    the process with the task would wait for the rest of the message for ever, and answer no other.
    """

    def __init__(self, token: str, kind: str) -> None:
        super().__init__("the run ended before the message was whole")
        self.token, self.kind = token, kind


class Pulling(RuntimeHttpClient):
    """Flower's client that checks for another task while it waits for pieces of a message.

    A SuperNode has one message at a time, so another task means that this one's message never comes.
    """

    another: Callable[[], tuple[str, str] | None] = staticmethod(lambda: None)
    _looked, _looking = 0.0, threading.Lock()

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        """Pull a piece. Raises Abandoned if the piece is missing and there is another task."""
        found = super().PullObject(request)
        if not found.object_available and found.object_found:
            with self._looking:  # pieces are pulled by several threads
                if time.monotonic() - self._looked > LOOK:
                    self._looked = time.monotonic()
                    if (task := self.another()) is not None:
                        raise Abandoned(*task)
        return found


def main(folder: Path, address: str, parent: int) -> None:
    """Answer one message of the SuperNode at ``address``, and end; end also with process ``parent``.

    Tasks of every kind are taken, so that other kinds are refused: a task left over would block all others.
    Taking tasks needs the secret in the node's folder.
    """
    start_parent_process_monitor(parent)
    app = own_app()
    who = SuperExecAuthHttpInterceptor(
        master_secret=(folder / SECRET).read_bytes(), protected_methods={ACQUIRE}
    )
    acquire = partial(_acquire, _client(address, who))
    while (task := acquire()) is None:
        time.sleep(POLL)
    while task is not None:
        token, kind = task
        try:
            task = None
            _answer_task(app, folder, address, token, kind, acquire)
        except Abandoned as other:
            log.warning("%s: the next one is answered", other)
            task = other.token, other.kind


def _answer_task(
    app: ClientApp,
    folder: Path,
    address: str,
    token: str,
    kind: str,
    another: Callable[[], tuple[str, str] | None],
) -> None:
    """Pull the message of a task and push the reply. Raises Abandoned if the message never comes."""
    client = _client(address, RuntimeTokenHttpInterceptor(token))
    client.another = another
    beats = HeartbeatSender(make_task_heartbeat_fn_http(client))
    beats.start()
    context, status, details = None, SubStatus.FAILED, "the message was not answered"
    try:
        message, context, _, bundle = pull_task_input(client)
        reply = reply_of(app, message, context, bundle.content, kind, folder)
        details = (reply.error.reason or "") if reply.has_error() else ""
        status = SubStatus.FAILED if reply.has_error() else SubStatus.COMPLETED
        push_message(client, reply, context)
    finally:
        push_task_output(client, context, status, details)
        if beats.is_running:
            beats.stop()
        client.close()


def _acquire(client: RuntimeHttpClient) -> tuple[str, str] | None:
    """Return the token and the kind of the next task; None without one now."""
    found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[str(kind) for kind in TaskType]))
    return (str(found.token), str(found.task.type)) if found.HasField("task") and found.token else None


def _client(address: str, who: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor) -> Pulling:
    return Pulling.from_server_address(
        server_address=address,
        insecure=True,  # only on this machine
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=APP), who],
        retry_invoker=make_simple_http_retry_invoker(),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
