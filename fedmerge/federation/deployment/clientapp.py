"""One message to a hospital, answered by the FedMerge that is installed here: stands in for flwr-clientapp.

Flower's own program unpacks the bundle that came with the run and imports the app that it names. This one
looks at the bundle without unpacking it (``bundle``), and answers with this package's own app alone.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.bundle import CLIENT, check_bundle
from fedmerge.federation.policy.audit import audit

log = logging.getLogger("fedmerge.clientapp")
APP = "flwr-clientapp"  # the kind of task that is answered


def answer(message: Message, context: Context, bundle: bytes, kind: str, folder: Path) -> Message:
    """The reply to a message: this package's app's, or an error with the reason.

    kind: of the task; Flower has others, whose programs run what the bundle says. folder: the node's.
    """
    try:
        if kind != APP:
            raise FedMergeError(f"a run of the kind '{kind}' is refused: a hospital answers {APP} alone.")
        check_bundle(bundle)
    except FedMergeError as error:
        log.error("refused: %s", error)
        kept = {"run": context.run_id, "kind": message.metadata.message_type, "reason": str(error)}
        audit(folder, "refused", **kept)
        return Message(Error(ErrorCode.LOAD_CLIENT_APP_EXCEPTION, str(error)), reply_to=message)
    try:
        return _own_app()(message=message, context=context)
    except Exception as error:
        log.exception("the app raised an exception")
        reason = f"{type(error).__name__}: {error}"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def _own_app() -> ClientApp:
    module, _, name = CLIENT.partition(":")
    app = getattr(importlib.import_module(module), name)
    assert isinstance(app, ClientApp)
    return app


def main(given: dict[str, Any]) -> None:
    """Fetch one task from the SuperNode, answer its message, hand the answer over.

    given: address, of the SuperNode on this machine; token and kind, of the task; parent, the process that
    this one ends with; folder, the node's.
    """
    start_parent_process_monitor(given["parent"])
    client = RuntimeHttpClient.from_server_address(
        server_address=given["address"],
        insecure=True,  # on this machine alone
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name=APP),
            RuntimeTokenHttpInterceptor(given["token"]),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    beats = HeartbeatSender(make_task_heartbeat_fn_http(client))
    beats.start()
    context, status, details = None, SubStatus.FAILED, "the message was not answered"
    try:
        message, context, _, bundle = pull_task_input(client)
        reply = answer(message, context, bundle.content, given["kind"], Path(given["folder"]))
        details = (reply.error.reason or "") if reply.has_error() else ""
        status = SubStatus.FAILED if reply.has_error() else SubStatus.COMPLETED
        push_message(client, reply, context)
    finally:
        push_task_output(client, context, status, details)
        if beats.is_running:
            beats.stop()
        client.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(json.load(sys.stdin))
