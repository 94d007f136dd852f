"""A round with secure aggregation: a hospital's side, and the server's.

Two exchanges a round. After training a hospital answers with a public key, made for this round, and keeps its
weights; then the server sends the keys of all that finished, and gets the weights under their masks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Message

from fedmerge.errors import FedMergeError
from fedmerge.federation.exchange import Answer, Question
from fedmerge.federation.privacy.secure_sum import FEWEST, decode, encode, mask, new_secret, public_of
from fedmerge.federation.records import reply, request
from fedmerge.federation.roster import Member, Roster
from fedmerge.federation.schema.jobs import SecureSumJob
from fedmerge.federation.schema.reading import read_job, read_tensors
from fedmerge.federation.schema.tensors import NO_TENSORS, Tensors
from fedmerge.models.state import BatchNormPolicy, State

PUBLIC, NUMBERS = "public", "numbers"
KEY_BYTES = 32
PUBLIC_KEY = Tensors.of("uint8", {PUBLIC: (KEY_BYTES,)})
"""What comes instead of weights from a training that secure aggregation begins with."""


@dataclass
class _Waiting:
    """The weights of one round that wait to be summed, and for which list of participants they went out."""

    round: int
    state: State
    secret: bytes
    answered: str = ""


class HospitalShare:
    """One hospital's part in secure sums; between the two exchanges its weights are kept here."""

    def __init__(self, name: str, images: int) -> None:
        self.name = name
        self.images = images
        self._waiting: _Waiting | None = None

    def offer(self, round: int, state: State) -> State:
        """Keep the weights of a round until they are asked for; returns the public key, made for it."""
        self._waiting = _Waiting(round, state, new_secret())
        return {PUBLIC: _tensor(public_of(self._waiting.secret))}

    def answer(self, message: Message) -> Message:
        """The weights under the masks of all participants: int64, modulo 2^64.

        Raises FedMergeError where there are no weights of this round, for another list of participants than
        the one that was answered first (the difference of two sums shows one hospital's weights), and as
        ``secure_sum.mask`` does.
        """
        job, waiting = read_job(message, SecureSumJob), self._waiting
        read_tensors(message, NO_TENSORS)
        if waiting is None or waiting.round != job.round:
            raise FedMergeError(
                f"hospital '{self.name}' has no weights of round {job.round} to be summed: its process "
                "was started anew, or it did not train."
            )
        asked = hashlib.sha256(json.dumps(job.model_dump(), sort_keys=True).encode()).hexdigest()
        if waiting.answered not in ("", asked):
            raise FedMergeError(
                f"hospital '{self.name}' has answered for other participants in round {job.round}: the "
                "difference of two sums would show a hospital's weights."
            )
        publics = {name: bytes.fromhex(key) for name, key in job.publics.items()}
        numbers = encode(waiting.state, self.images, job.everyone, job.batch_norm)
        masked = mask(numbers, self.name, waiting.secret, publics, asked.encode())
        waiting.answered = asked
        return reply(message, {}, {NUMBERS: torch.from_numpy(masked.view(np.int64))})

    def state_dict(self) -> State:
        """What waits, for a process that ends between the exchanges; it holds the private key."""
        if self._waiting is None:
            return {}
        kept = {f"state/{key}": value for key, value in self._waiting.state.items()}
        kept |= {"round": torch.tensor(self._waiting.round), "secret": _tensor(self._waiting.secret)}
        return kept | {"answered": _tensor(self._waiting.answered.encode())}

    def load_state_dict(self, state: State) -> None:
        """Take back what ``state_dict`` gave."""
        self._waiting = None
        if state:
            weights = {k.removeprefix("state/"): v for k, v in state.items() if k.startswith("state/")}
            secret, answered = _bytes(state["secret"]), _bytes(state["answered"]).decode()
            self._waiting = _Waiting(int(state["round"]), weights, secret, answered)


def secure_mean(
    round: int,
    answers: Iterable[Answer],
    start: State,
    batch_norm: BatchNormPolicy,
    ask: Callable[[Question], Iterable[Answer]],
) -> State | None:
    """The mean weighted by images of the weights that no answer shows; None if a hospital is missing in it.

    answers: those to the training messages, with public keys. ask: puts a question and gives the usable
    answers. The masks of a hospital that vanishes after training stay in the sum, so the round is void.
    Raises FedMergeError for fewer than three hospitals.
    """
    known = list(answers)
    if len(known) < FEWEST:
        raise FedMergeError(
            f"round {round}: a secure sum takes at least {FEWEST} hospitals, but {len(known)} finished their "
            "training: with fewer, one could read another's weights."
        )
    everyone = sum(int(answer.metrics["num-examples"]) for answer in known)
    publics = {answer.member.name: _bytes((answer.state or {})[PUBLIC]).hex() for answer in known}
    words = sum(value.numel() for value in start.values() if value.is_floating_point())
    job = {"round": round, "publics": publics, "everyone": everyone, "batch_norm": batch_norm}
    roster = Roster(answer.member for answer in known)
    total, count = np.zeros(words, dtype=np.uint64), 0
    for answer in ask(_question(round, roster, job, words)):
        total += (answer.state or {})[NUMBERS].numpy().view(np.uint64)
        count += 1
    return decode(total, start, everyone, batch_norm) if count == len(known) else None


def _question(round: int, roster: Roster, job: Mapping[str, Any], words: int) -> Question:
    def ask(member: Member, attempt: int) -> Message:
        return request("query.secure_sum", member.node_id, f"sum {round}", dict(job), None)

    masked = Tensors.of("int64", {NUMBERS: (words,)})
    return Question("query.secure_sum", round, "sum", roster, ask, lambda member: masked)


def _tensor(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def _bytes(data: torch.Tensor) -> bytes:
    return data.numpy().tobytes()
