"""Ask every admitted hospital for a description of its images (``inspection``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmerge.errors import FedMergeError
from fedmerge.federation.grids.backends import Backend
from fedmerge.federation.hospital.inspection import ACTION, read
from fedmerge.federation.messages.jobs import InspectJob
from fedmerge.federation.messages.records import reason_of, request_message

POLL = 1.0
Told = dict[str, Any]


def inspect_all(backend: Backend, names: Mapping[int, str], wish: InspectJob, patience: float) -> list[Told]:
    """Return each hospital's inspection, or why there is none, sorted by name. names: by node id."""
    found: list[Told] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        found.extend(_ask(grid, names, wish, patience))

    backend.simulate(app, [])
    return sorted(found, key=lambda each: str(each["hospital"]))


def _ask(grid: Grid, names: Mapping[int, str], wish: InspectJob, patience: float) -> list[Told]:
    until = time.monotonic() + patience
    while (missing := set(names) - set(grid.get_node_ids())) and time.monotonic() < until:
        time.sleep(POLL)
    found = [{"hospital": names[node], "reason": "its node did not come"} for node in missing]
    nodes = [node for node in names if node not in missing]
    asked = wish.model_dump(exclude=None if wish.checks else {"checks"})  # older hospitals do not know them
    messages = [request_message(ACTION, node, "inspection", asked, None) for node in nodes]
    answered = set()
    for reply_message in grid.send_and_receive(messages, timeout=max(patience, 60.0)):
        node = reply_message.metadata.src_node_id
        if node in names and node not in answered:
            answered.add(node)
            found.append(_told(names[node], reply_message))
    late = [node for node in nodes if node not in answered]
    return found + [{"hospital": names[node], "reason": "it did not answer in time"} for node in late]


def _told(name: str, reply_message: Any) -> Told:
    if reply_message.has_error():
        return {"hospital": name, "reason": reason_of(reply_message)[:1000]}
    try:
        told = read(reply_message)
    except FedMergeError as error:
        return {"hospital": name, "reason": f"refused: {error}"[:1000]}
    if told.hospital != name:
        return {"hospital": name, "reason": f"it calls itself '{told.hospital}': it is not heard"}
    return told.model_dump(mode="json")
