"""Flower's Grid in a deployment, with requests and replies in the server's audit log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedmerge.federation.admission import read_admitted
from fedmerge.federation.grids.flower import FlowerGrid
from fedmerge.federation.messages.reading import ARRAYS, JOB
from fedmerge.federation.messages.records import reason_of
from fedmerge.federation.policy.audit import audit, audit_log
from fedmerge.federation.policy.proposal import KEY, proposal_hash, read_proposal
from fedmerge.federation.policy.seen import seen


class AuditedGrid(FlowerGrid):
    """A FlowerGrid that records messages and replies in the audit log of a server's folder.

    A message is in the log before it is sent, a reply before it is used.
    """

    def __init__(
        self,
        grid: Grid,
        folder: Path,
        run: int,
        away: float = 0.0,
        lost: Callable[[Sequence[str]], set[str]] = lambda ids: set(),
    ) -> None:
        """Raises FedMergeError if ``folder`` is no server's. away, lost: see ``FlowerGrid``."""
        super().__init__(grid, away, lost, _admitted(folder))
        audit_log(folder)
        self.folder = folder
        self.number = run

    def revoked(self, nodes: Iterable[int]) -> set[int]:
        """Return the nodes whose admission was revoked."""
        now = self._named()
        return {node for node in nodes if node in self.names and node not in now}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """See ``FlowerGrid``."""
        self._named()  # a hospital may have been admitted, or have a new key, since the run began
        sent = list(messages)
        known: dict[int, dict[str, Any]] = {}  # hash a model that goes to all only once
        for message in sent:
            arrays = message.content.array_records.get(ARRAYS)
            if id(arrays) not in known:
                known[id(arrays)] = seen(message, "out")
            self._note("asked", message.metadata.dst_node_id, message, known[id(arrays)] | _proposed(message))
        asked = {message.metadata.dst_node_id: message for message in sent}
        return self._received(super().send_and_receive(sent, timeout=timeout), asked)

    def _received(self, replies: Iterable[Message], asked: Mapping[int, Message]) -> Iterator[Message]:
        """Log and yield replies. asked: the request to each node; a reply's own metadata is not trusted."""
        for reply_message in replies:
            node = reply_message.metadata.src_node_id
            if node in asked:
                wrong = (
                    {"reason": reason_of(reply_message)}
                    if reply_message.has_error()
                    else seen(reply_message, "in")
                )
                self._note("refused" if reply_message.has_error() else "answered", node, asked[node], wrong)
            yield reply_message

    def _named(self) -> dict[int, str]:
        """Return the hospitals that are admitted now, and know their names from now on."""
        now = _admitted(self.folder)
        self.names = {**self.names, **now}
        return now

    def _note(self, event: str, node: int, message: Message, fields: Mapping[str, Any]) -> None:
        kind, group = message.metadata.message_type, message.metadata.group_id
        who = self.names.get(node, "?")
        audit(self.folder, event, run=self.number, hospital=who, node=node, kind=kind, group=group, **fields)


def _proposed(message: Message) -> dict[str, Any]:
    """Return the hash of the proposal in a greeting, the same as at a hospital with the same code."""
    job = json.loads(str(message.content.config_records[JOB]["job"]))
    return {"proposal": proposal_hash(read_proposal(job))} if KEY in job else {}


def _admitted(folder: Path) -> dict[int, str]:
    """Return the names of the hospitals that are admitted now, by node."""
    path = folder / "admitted.yaml"
    admitted = read_admitted(path) if path.is_file() else {}
    return {node: hospital.name for node, hospital in (admitted or {}).items()}
