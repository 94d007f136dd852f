"""The server's side of remote statistics: ask the hospitals for sums over images, add up the replies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from fedmerge.errors import FedMergeError, unknown
from fedmerge.federation.arrays import content_bytes, lend
from fedmerge.federation.checks import not_finite
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.hospital.sums.answer import program_of
from fedmerge.federation.hospital.sums.session import join_models
from fedmerge.federation.messages.reading import read_reply
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.messages.replies import ReplyBody, Summed, SumsBegun
from fedmerge.federation.messages.secure import OWN, SumsOffered
from fedmerge.federation.messages.table import MESSAGES
from fedmerge.federation.messages.tensors import Refused, Tensors
from fedmerge.federation.packing import WALKING, Shapes, packed_shapes, shapes, unpack
from fedmerge.federation.plan.train_config import common_config
from fedmerge.federation.server.client_manager import ClientManager
from fedmerge.federation.server.requests import Reply, Request, no_tensors, usable
from fedmerge.merging.neurons.statistics import Sums
from fedmerge.models.state import State, check_alike, state_hash

PHASE = "sums"


@dataclass
class Traffic:
    """The traffic with one hospital: the number of requests, and bytes of records in both directions."""

    site: str
    exchanges: int = 0
    bytes_down: int = 0
    bytes_up: int = 0


class FederatedStatistics:
    """Answers the requests of a fusion method with sums that the hospitals compute over their own images.

    It is a ``Statistics``: each request goes to every hospital in one message, and the replies are added in
    site order in float64, which gives the sums over the pooled images. The parents are sent once, with the
    first request. ``inputs`` and ``importance`` of a parent come only from the hospital of its name, so from
    the images it was trained for; a parent without such a hospital is refused.

    A hospital that fails, or whose sums are not finite or of a wrong shape, is recorded in the run's failures
    and not asked again. If that happens in the middle of a walk, the walk goes on without it: no single sum
    holds a part of its reply, but layers already fused were fused with its images. So ``on_failure: retry``
    is ``skip`` here. Below the plan's quorum, or with ``on_failure: abort``, FedMergeError ends the fusion.

    A hospital that lost the parents (its process was restarted) gets them again; within a walk, also the
    current fused model. So a method may change only entries of layers still ahead in the walk.
    """

    BEGIN, ASK = "query.sums_begin", "query.sums"  # message types

    def __init__(
        self,
        grid: Grid,
        manager: ClientManager,
        parents: Mapping[str, State],
        images: Mapping[str, int],
        split: Literal["val", "train"],
    ) -> None:
        """parents: states by name, in order. images: by site, the number of its images in the sums."""
        known = [client.name for client in manager.clients]
        for site in images:
            if site not in known:
                raise unknown("hospital", site, known)
        if not parents or not images:
            raise FedMergeError("sums over images need at least one model and one hospital: name some.")
        check_alike(list(parents), parents.values())
        self.grid = grid
        self.manager = manager
        self.names = list(parents)
        self.active = manager.clients.named(images)
        self._quorum = min(manager.plan.federation.quorum, len(self.active))
        self._program = program_of(manager.plan.model)
        self._template = next(iter(parents.values()))
        self._joined = join_models([_on_cpu(state) for state in parents.values()])
        self._weights = lend(self._joined)
        self._job = common_config(manager.plan) | {
            "parents": self.names,
            "images": dict(images),
            "split": split,
        }
        hashes = [state_hash(state) for state in parents.values()]
        self._job["session"] = hashlib.sha256(json.dumps([self._job, hashes]).encode()).hexdigest()
        self._begun = False
        self._fused: State | None = None
        self._traffic = {client.name: Traffic(client.name) for client in self.active}

    @property
    def traffic(self) -> list[dict[str, Any]]:
        """Per hospital: site, exchanges, bytes_down (to it), bytes_up (from it)."""
        return [asdict(row) for row in self._traffic.values()]

    def ask(self, kind: str, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        """Send one request to the hospitals; return the sum of their replies, float64 on the CPU.

        Raises FedMergeError if too few hospitals reply, or none for one of the parents.
        """
        if not self._begun:
            self._begin(self.active)
            self._begun = True
        given = _on_cpu(tensors)
        if kind == "walk":
            check_alike((self.names[0], "the fused model"), (self._template, given))
        mix = given.get(".mix")
        whole = shapes(
            self._program, self._template, len(self.names), kind, options, None if mix is None else len(mix)
        )
        total = self._total(kind, options, given, whole)
        self._remember(kind, given)
        return unpack(kind, total, whole)

    def _total(self, kind: str, options: dict[str, Any], tensors: State, whole: Shapes) -> Sums:
        """Return the sums of all hospitals' replies, packed."""
        total: Sums = {}
        for reply in self._collect(kind, options, tensors, whole):
            for key, value in (reply.state or {}).items():
                total[key] = total[key].add_(value) if key in total else value.clone()
        self._check_complete(kind, whole, total)
        return total

    def _collect(
        self, kind: str, options: dict[str, Any], tensors: State, whole: Shapes, label: str | None = None
    ) -> list[Reply]:
        """Return the usable replies to one request. label: of the sum under masks, if replies have keys."""
        asked = self._owners() if kind in OWN else self.active

        def check(reply: Reply) -> str | None:
            if not _known(reply):
                return "it does not keep the models between two messages: keep its process running"
            return self._unusable(reply, kind, label)

        job = self._question_job(kind, options, label)
        arrays = lend(tensors) if tensors else None
        request = self._request(asked, self.ASK, job, arrays, self._expected(kind, whole), check)
        replies = self._send(request)
        lost = ClientRegistry(
            m
            for m, reply_message in asked.in_order(replies)
            if reply_message is not None and self._lost(reply_message)
        )
        if lost:
            kept = [reply_message for reply_message in replies if not self._lost(reply_message)]
            back = self._restore(lost, kind, label)
            replies = kept + self._send(replace(request, clients=back))
            asked = ClientRegistry(client for client in asked if client in back or client not in lost)
        return self._accept(replace(request, clients=asked), replies)

    def _question_job(self, kind: str, options: dict[str, Any], label: str | None) -> dict[str, Any]:
        job = {"session": self._job["session"], "kind": kind, "options": options}
        return job if label is None else job | {"label": label}

    def _expected(self, kind: str, whole: Shapes) -> Callable[[Client], Tensors]:
        """Return the schema of the arrays in a hospital's reply."""
        expected = packed_shapes(kind, whole)

        def sums(client: Client) -> Tensors:
            mine = self._own(expected, client.name) if kind in OWN else expected
            return replace(Tensors.of("float64", mine), needed=False)

        return sums

    def _unusable(self, reply: Reply, kind: str, label: str | None) -> str | None:
        """Return why the reply of a hospital that has the models cannot be used, or None."""
        return "it came without sums" if reply.state is None else not_finite(reply.state)

    def _lost(self, reply_message: Message) -> bool:
        """Check whether a hospital replies that it lost the parents; other faults are found later."""
        if reply_message.has_error():
            return False
        try:
            body, _ = read_reply(reply_message, MESSAGES[self.ASK].reply)
        except Refused:
            return False
        return not _has_models(body)

    def _restore(self, lost: ClientRegistry, kind: str, label: str | None) -> ClientRegistry:
        """Send parents and walk again to hospitals that lost them; return those that have them now."""
        back = self._begin(lost)
        if kind in WALKING and self._fused is not None and back:
            job = self._question_job("walk", {}, label)
            arrays = self._expected("walk", {"images": ()})
            walk = self._request(back, self.ASK, job, lend(self._fused), arrays)
            return ClientRegistry(reply.client for reply in self._accept(walk, self._send(walk)))
        return back

    def _begin(self, clients: ClientRegistry) -> ClientRegistry:
        """Send the parents to those of ``clients`` that lack them; return those that have them now."""
        known = self._request(clients, self.BEGIN, self._job, None)
        there = {reply.client.name for reply in self._accept(known, self._send(known)) if _known(reply)}
        lacking = ClientRegistry(
            client for client in clients if client in self.active and client.name not in there
        )
        begin = self._request(lacking, self.BEGIN, self._job, self._weights)
        there |= {reply.client.name for reply in self._accept(begin, self._send(begin))}
        return clients.named(there)

    def _accept(self, request: Request, messages: Iterable[Message]) -> list[Reply]:
        """Return the usable replies; a hospital without one is not asked again."""
        if not request.clients:
            return []
        replies = list(self.manager.usable(request, messages))
        failed = {client.name for client in request.clients} - {reply.client.name for reply in replies}
        self.active = ClientRegistry(client for client in self.active if client.name not in failed)
        if len(self.active) < self._quorum:
            reasons = "; ".join(f"{f.site}: {f.reason}" for f in self.manager.failures if f.phase == PHASE)
            raise FedMergeError(
                f"sums over images: {len(self.active)} of {len(self._traffic)} hospitals gave a usable "
                f"answer, fewer than the quorum of {self._quorum}. {reasons}"
            )
        return replies

    def _request(
        self,
        clients: ClientRegistry,
        action: str,
        job: dict[str, Any],
        arrays: ArrayRecord | None,
        tensors: Callable[[Client], Tensors] = no_tensors,
        check: Callable[[Reply], str | None] = usable,
    ) -> Request:
        def ask(client: Client, attempt: int) -> Message:
            return request_message(action, client.node_id, PHASE, job, arrays)

        return Request(action, 0, PHASE, clients, ask, tensors, check)

    def _send(self, request: Request) -> list[Message]:
        messages = request.messages()
        by_node = {client.node_id: self._traffic[client.name] for client in request.clients}
        for client, message in zip(request.clients, messages, strict=True):
            self._traffic[client.name].exchanges += 1
            self._traffic[client.name].bytes_down += _bytes(message)
        replies = list(self.grid.send_and_receive(messages)) if messages else []
        for reply_message in replies:
            by_node[reply_message.metadata.src_node_id].bytes_up += _bytes(reply_message)
        return replies

    def _remember(self, kind: str, tensors: State) -> None:
        """Keep the current fused model."""
        if kind == "walk":
            self._fused = dict(tensors)
        elif self._fused is not None:
            self._fused |= {key: value for key, value in tensors.items() if not key.startswith(".")}

    def _owners(self) -> ClientRegistry:
        return ClientRegistry(client for client in self.active if client.name in self.names)

    def _own(self, expected: Mapping[str, tuple[int, ...]], site: str) -> dict[str, tuple[int, ...]]:
        begin = f"{self.names.index(site)}/"
        return {key: shape for key, shape in expected.items() if key.startswith(begin) or key == "images"}

    def _check_complete(self, kind: str, whole: Mapping[str, Any], total: Sums) -> None:
        if whole.keys() - total.keys():
            have = [client.name for client in self._owners()]
            lack = ", ".join(f"'{name}'" for name in self.names if name not in have)
            raise FedMergeError(
                f"the method asks for sums ('{kind}') over the images that each model was trained for, but "
                f"no hospital gives them for {lack}: let all hospitals whose models are fused give images."
            )


def _known(reply: Reply) -> bool:
    return _has_models(reply.body)


def _has_models(body: ReplyBody) -> bool:
    return isinstance(body, Summed | SumsBegun | SumsOffered) and bool(body.known)


def _bytes(message: Message) -> int:
    return 0 if message.has_error() else content_bytes(message.content)


def _on_cpu(tensors: Mapping[str, Tensor]) -> State:
    return {key: value.detach().cpu() for key, value in tensors.items()}
