"""What a fault plan does to a hospital: its answers as a broken or hostile one would give them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from flwr.app import Message

from fedmerge.data import Site
from fedmerge.errors import FedMergeError
from fedmerge.federation.arrays import borrow, lend
from fedmerge.federation.checks import trained
from fedmerge.federation.records import ARRAYS, METRICS, job_of, reply, state_of
from fedmerge.models.state import State

DELAY = "delay"  # the metric that says by how many seconds an answer is later than it was measured
SCALE = 1000.0


class Trains(Protocol):
    """A hospital, as far as faults know it."""

    site: Site

    def train(self, message: Message) -> Message:
        """Its answer to a message."""

    def train_secure(self, message: Message) -> Message:
        """Its answer to a message, with its weights under masks."""


def train(hospital: Trains, message: Message, secure: bool = False) -> Message:
    """``hospital.train(message)``, with what the job's fault plan makes of it (``fault_plan.Fault``).

    secure: ``train_secure`` instead, whose weights no fault can reach. Nothing is waited for: a delay is a
    number in the answer, so a plan of hours runs in no time, and the same anywhere.
    """
    faults = {fault["kind"]: fault for fault in job_of(message).get("faults", ())}
    if not faults:
        return hospital.train_secure(message) if secure else hospital.train(message)
    if "crash" in faults:
        raise FedMergeError("it crashed, as the fault plan wants.")
    if "hang" in faults:
        told = {} if secure else {"num-examples": len(hospital.site.train)}
        return reply(message, told | {DELAY: math.inf})
    trainer = _flipped(hospital) if "label-flip" in faults else hospital
    answer = trainer.train_secure(message) if secure else trainer.train(message)
    sent = state_of(message) if ARRAYS in message.content else {}
    if not secure:
        answer.content[ARRAYS] = lend(_spoilt(borrow(answer.content.array_records[ARRAYS]), sent, faults))
    if "slow" in faults:
        answer.content.metric_records[METRICS][DELAY] = float(faults["slow"]["seconds"])
    return answer


def _flipped(hospital: Trains) -> Trains:
    """The hospital with class C - 1 - c for class c in its training images; all else is shared with it."""
    train = hospital.site.train
    other = copy.copy(hospital)
    other.site = replace(
        hospital.site, train=replace(train, labels=hospital.site.n_classes - 1 - train.labels)
    )
    return other


@torch.no_grad()
def _spoilt(state: State, sent: State, faults: Mapping[str, Mapping[str, Any]]) -> State:
    """The weights with every fault in them; without weights that were sent, none can be stale or scaled."""
    if sent and "stale" in faults:
        state = dict(sent)
    if sent and "huge-norm" in faults:
        scale = faults["huge-norm"].get("scale", SCALE)
        for key in trained(state):
            begin = sent[key].double()
            state[key] = (begin + scale * (state[key].double() - begin)).to(state[key].dtype)
    first = next((key for key in trained(state) if state[key].dim()), None)
    if first is not None and "nan" in faults:
        state[first] = state[first].clone()
        state[first][(0,) * state[first].dim()] = math.nan
    if first is not None and "wrong-shape" in faults:
        state[first] = torch.cat([state[first], state[first][:1]])
    return state
