"""Beside a SuperNode: starts a process of ours for each message that came, instead of Flower's programs.

A SuperNode with ``--isolation process`` starts nothing itself; what takes its tasks proves that it knows the
secret of the node's folder, so other users of the machine cannot. Tasks of every kind are taken, so that a
refusal is an answer; one that stayed would keep all others waiting.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient

from fedmerge.federation.deployment.folders import SECRET

POLL = 0.25  # seconds between two looks for a task
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
ANSWER = "fedmerge.federation.deployment.clientapp"


def main(folder: Path, address: str, parent: int) -> None:
    """Take tasks from the SuperNode at ``address`` until process ``parent``, or this one, ends."""
    start_parent_process_monitor(parent)
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # on this machine alone
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=(folder / SECRET).read_bytes(), protected_methods={ACQUIRE}
            ),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    kinds = [str(kind) for kind in TaskType]
    while True:
        found = client.AcquireTask(AcquireTaskRequest(supported_task_types=kinds))
        if found.HasField("task") and found.token:
            _start(folder, address, found.token, found.task.type)
        time.sleep(POLL)


def _start(folder: Path, address: str, token: str, kind: str) -> None:
    """Start the process that answers; the token goes to it by a way that other users do not see."""
    given = {"address": address, "token": token, "kind": kind, "parent": os.getpid(), "folder": str(folder)}
    process = subprocess.Popen([sys.executable, "-P", "-m", ANSWER], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode())
    process.stdin.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
