"""Hospitals of secure sums without training, and the way of messages between them and a test's server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from fedmerge.errors import FedMergeError
from fedmerge.federation.client_registry import Client
from fedmerge.federation.deployment.keys import make_node_key, read_public
from fedmerge.federation.hospital.secure.ledger import Subject
from fedmerge.federation.hospital.secure.rounds import SecureHospital
from fedmerge.federation.messages.reading import read_reply
from fedmerge.federation.messages.records import reply_message, request_message
from fedmerge.federation.messages.secure import Offered
from fedmerge.federation.messages.table import MESSAGES
from fedmerge.federation.server.requests import Reply, Request, read
from fedmerge.federation.server.secure_round import check_offer, secure_total
from fedmerge.federation.simulated import failed
from fedmerge.seeding import numpy_generator

NAMES = "abcdefghij"
LABEL = "run train 1"


class Net:
    """``n`` hospitals and the way of messages to them.

    lost: names that answer nothing, by action. changed: functions that change an answer's state, by action
    and name. asked: how many messages there were, by action. folders: of deployed hospitals, by name.
    """

    def __init__(self, n: int, words: int = 20, seed: int = 0, folders: dict | None = None) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 1, 1
        rng = numpy_generator(seed, "numbers")
        self.names = list(NAMES[:n])
        self.folders = folders or {}
        self.hospitals = {name: SecureHospital(name, self.folders.get(name)) for name in self.names}
        largest = 2**62 // n - 1
        self.numbers = {name: rng.integers(-largest, largest, words) for name in self.names}
        self.members = {name: Client(1000 + i, name, 1, 1, (1,)) for i, name in enumerate(self.names)}
        self.words = words
        self.lost: dict[str, Iterable[str]] = {}
        self.changed: dict = {}
        self.asked: dict[str, int] = {}

    def offer(self, names: Iterable[str] | None = None, label: str = LABEL) -> list[Reply]:
        """The first answers: keys for a sum of each hospital's numbers."""
        found = []
        for name in names or self.names:
            words = self.numbers[name].view(np.uint64)
            digest = hashlib.sha256(words.tobytes()).hexdigest()
            keys = self.hospitals[name].offer(Subject(label, digest, np.zeros(0), np.zeros(0)), words)
            found.append(Reply(self.members[name], Offered(**keys)))
            assert check_offer(label, {})(found[-1]) is None
        return found

    def ask(self, request: Request) -> Iterable[Reply]:
        """What an honest server does with a request."""
        for message in request.messages():
            reply = read(request, self._member(message), self.carry(message))
            if isinstance(reply, Reply):
                yield reply

    def carry(self, message: Message) -> Message | None:
        """A message to its hospital, and what comes back."""
        name, action = self._member(message).name, message.metadata.message_type.rpartition("_")[2]
        self.asked[action] = self.asked.get(action, 0) + 1
        if name in self.lost.get(action, ()):
            return None
        try:
            reply = getattr(self.hospitals[name], action)(message)
        except FedMergeError as error:
            return failed(message, error)
        if (action, name) in self.changed:
            body, record = parts(reply)
            texts, arrays = self.changed[action, name](body.model_dump(), record)
            return reply_message(message, {}, arrays, texts)
        return reply

    def put(self, name: str, action: str, **job: object) -> object:
        """One message to one hospital, and what it answers (numbers for ``masked``); raises its refusal."""
        message = request_message(f"query.secure_{action}", self.members[name].node_id, "", job, None)
        body, record = parts(getattr(self.hospitals[name], action)(message))
        return record["numbers"].numpy().copy() if action == "masked" else body

    def total(self, offers: list[Reply], label: str = LABEL) -> tuple[list[str], np.ndarray]:
        """The sum that an honest server gets: of whom, and the numbers."""
        found = secure_total(1, label, offers, self.words, self.ask)
        return list(found.names), found.words.view(np.int64)

    def plain(self, names: Iterable[str]) -> np.ndarray:
        """The sum without masks."""
        return sum(self.numbers[name] for name in names)

    def restart(self, name: str, numbers: np.ndarray | None = None) -> None:
        """The hospital's process ends, and another begins in the same folder."""
        self.hospitals[name] = SecureHospital(name, self.folders.get(name))
        if numbers is not None:
            self.numbers[name] = numbers

    def _member(self, message: Message) -> Client:
        return next(m for m in self.members.values() if m.node_id == message.metadata.dst_node_id)


def parts(reply: Message) -> tuple:
    """What an answer to a request of a sum says, and its arrays."""
    kind = {"numbers": "masked", "shares": "shares", "signature": "confirm", "own": "unmask"}
    names = [*reply.content.config_records.get("texts", {}), *reply.content.array_records.get("arrays", {})]
    (action,) = {kind[name] for name in names if name in kind}
    return read_reply(reply, MESSAGES[f"query.secure_{action}"].reply)


def adverts_of(offers: Iterable[Reply]) -> list[dict]:
    """The keys in the hospitals' first answers, as a server passes them on."""
    return [reply.body.advert.model_dump() for reply in offers]


def folders_with_keys(place: Path, names: Iterable[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """A folder for each node, with its key in it; and the public keys, by name."""
    folders = {name: place / f"node-{name}" for name in names}
    for folder in folders.values():
        folder.mkdir()
    return folders, {name: read_public(make_node_key(folder)) for name, folder in folders.items()}


@pytest.fixture
def folders(cohort, tmp_path):
    """Folders of deployed nodes with keys, by site; each has pinned the others'."""
    made, keys = folders_with_keys(tmp_path, [site.name for site in cohort.sites])
    for name, folder in made.items():
        SecureHospital(name, folder).peers.pin(keys)
    return made


@pytest.fixture(scope="session")
def net():
    return Net


@pytest.fixture(scope="session")
def adverts():
    return adverts_of


@pytest.fixture
def deployed(tmp_path):
    """A function that makes a net whose hospitals have folders, with keys, and each other's keys pinned."""

    def make(n: int, pinned: bool = True, **options: object) -> Net:
        folders, keys = folders_with_keys(tmp_path, NAMES[:n])
        made = Net(n, folders=folders, **options)
        for hospital in made.hospitals.values() if pinned else ():
            hospital.peers.pin(keys)
        return made

    return make
