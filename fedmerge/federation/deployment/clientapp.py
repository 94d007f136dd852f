"""One message to a hospital, answered by the FedMerge that is installed here: stands in for flwr-clientapp.

Flower's own program unpacks the bundle that came with the run and imports the app that it names. This one
looks at the bundle without unpacking it (``bundle``), and answers with this package's own app alone. It is
ready, with all that it imports, before a message comes.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
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
from fedmerge.federation.policy.audit import audit
from fedmerge.federation.schema.tensors import named

log = logging.getLogger("fedmerge.clientapp")
APP = "flwr-clientapp"  # the kind of task that is answered
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
POLL = 0.25  # seconds between two looks for a message


def answer(
    app: ClientApp, message: Message, context: Context, bundle: bytes, kind: str, folder: Path
) -> Message:
    """The app's reply to a message, or an error with the reason.

    bundle: what came with the run. kind: of the task; Flower has others, whose programs run what the bundle
    says. folder: the node's.
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
        log.exception("the app raised an exception")
        reason = f"{type(error).__name__}: {error}"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def own_app() -> ClientApp:
    """The hospital's app of this package, whatever a run says."""
    module, _, name = CLIENT.partition(":")
    app = getattr(importlib.import_module(module), name)
    assert isinstance(app, ClientApp)
    return app


def main(folder: Path, address: str, parent: int) -> None:
    """Wait for one message at the SuperNode at ``address``, answer it, and end; end with process ``parent``.

    Tasks of every kind are taken, so that a refusal is an answer: one that stayed would keep all others
    waiting. Who takes them must know the secret in the node's folder.
    """
    start_parent_process_monitor(parent)
    app = own_app()
    token, kind = _next_task(folder, address)
    client = _client(address, RuntimeTokenHttpInterceptor(token))
    beats = HeartbeatSender(make_task_heartbeat_fn_http(client))
    beats.start()
    context, status, details = None, SubStatus.FAILED, "the message was not answered"
    try:
        message, context, _, bundle = pull_task_input(client)
        reply = answer(app, message, context, bundle.content, kind, folder)
        details = (reply.error.reason or "") if reply.has_error() else ""
        status = SubStatus.FAILED if reply.has_error() else SubStatus.COMPLETED
        push_message(client, reply, context)
    finally:
        push_task_output(client, context, status, details)
        if beats.is_running:
            beats.stop()
        client.close()


def _next_task(folder: Path, address: str) -> tuple[str, str]:
    """The token and the kind of the next task."""
    secret = (folder / SECRET).read_bytes()
    client = _client(address, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE}))
    kinds = [str(kind) for kind in TaskType]
    while True:
        found = client.AcquireTask(AcquireTaskRequest(supported_task_types=kinds))
        if found.HasField("task") and found.token:
            client.close()
            return str(found.token), str(found.task.type)
        time.sleep(POLL)


def _client(
    address: str, who: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor
) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # on this machine alone
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=APP), who],
        retry_invoker=make_simple_http_retry_invoker(),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
