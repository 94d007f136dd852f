"""Apply injected faults in a hospital, so that it replies as a broken or hostile one would."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from flwr.app import Message

from fedmerge.data import Site
from fedmerge.errors import FedMergeError
from fedmerge.federation.arrays import borrow, lend
from fedmerge.federation.checks import trained
from fedmerge.federation.messages.control_variates import divided, sent_tensors
from fedmerge.federation.messages.jobs import InjectedFault, TrainJob
from fedmerge.federation.messages.reading import ARRAYS, METRICS, read_job, read_tensors
from fedmerge.federation.messages.records import reply_message
from fedmerge.federation.messages.secure import SecureTrainJob
from fedmerge.federation.privacy.secure_keys import no_keys
from fedmerge.models.state import State

DELAY = "delay"  # the metric with the injected delay of a reply, in seconds, on top of the measured time
SCALE = 1000.0


class Trains(Protocol):
    """The part of a hospital that faults need."""

    site: Site

    def train(self, message: Message) -> Message:
        """Train as the message says; return the reply."""

    def train_secure(self, message: Message) -> Message:
        """The same, with the weights under masks."""


def train(hospital: Trains, message: Message) -> Message:
    """Return ``hospital.train(message)`` with the faults of the job applied (``fault_injection.Fault``).

    Nothing waits: a delay is a number in the reply, so a plan of hours runs in no time, the same anywhere.
    """
    return _train(hospital, message, read_job(message, TrainJob), type(hospital).train)


def train_secure(hospital: Trains, message: Message) -> Message:
    """The same for ``hospital.train_secure(message)``; faults do not change the masked weights."""
    return _train(hospital, message, read_job(message, SecureTrainJob), type(hospital).train_secure)


def _train(
    hospital: Trains, message: Message, job: TrainJob, training: Callable[[Any, Message], Message]
) -> Message:
    secure = isinstance(job, SecureTrainJob)
    faults: dict[str, InjectedFault] = {fault.kind: fault for fault in job.faults}
    if not faults:
        return training(hospital, message)
    if "crash" in faults:
        raise FedMergeError("it crashed, as fault injection wants.")
    if "hang" in faults:
        never: dict[str, float] = {"loss": 0.0, "accuracy": 0.0, "seconds": 0.0}
        never |= {"steps": 0, "merges": 0, DELAY: math.inf}
        if secure:
            return reply_message(message, {DELAY: math.inf}, texts=no_keys(hospital.site.name))
        return reply_message(message, {"num-examples": len(hospital.site.train), **never})
    reply = training(_flipped(hospital) if "label-flip" in faults else hospital, message)
    sent = divided(read_tensors(message, sent_tensors(job)))[0] if job.start == "shared" else {}
    if not secure:
        reply.content[ARRAYS] = lend(_spoilt(borrow(reply.content.array_records[ARRAYS]), sent, faults))
    if "slow" in faults:
        reply.content.metric_records[METRICS][DELAY] = faults["slow"].seconds or 0.0
    return reply


def _flipped(hospital: Trains) -> Trains:
    """Return the hospital with class C - 1 - c for class c in its training images; all else is shared."""
    site, train = hospital.site, hospital.site.train
    other = copy.copy(hospital)
    other.site = replace(site, train=replace(train, labels=site.task.flipped(train.labels, site.n_classes)))
    return other


@torch.no_grad()
def _spoilt(state: State, sent: State, faults: Mapping[str, InjectedFault]) -> State:
    """Return the weights with every fault applied; without ``sent``, none can be stale or scaled."""
    if sent and "stale" in faults:
        state = dict(sent)
    if sent and "huge-norm" in faults:
        given = faults["huge-norm"].scale
        scale = SCALE if given is None else given
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
