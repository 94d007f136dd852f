"""Local differential privacy: a hospital clips its update and adds noise to it before it leaves.

The server, and whoever reads its messages, learns of a hospital's images only what a noised update tells;
epsilon bounds it for any two data sets of the hospital. The other numbers in the reply (loss, accuracy,
number of images, seconds) are not noised.

Each request is answered once: the noised weights are kept in the hospital's folder, and a repeated request
(a retry, a resumed server, or one that hopes for two draws around one update) gets the same bits. Another
request gets other noise, and counts. The hospital itself counts, in a chained log, and its own demand
overrides the server's options.

Flower's ``LocalDpMod`` (1.42) is not used. Its noise is numpy's global generator, which any code of the
process may have seeded. Its deviation, ``sensitivity sqrt(2 ln(1.25 / delta)) / epsilon``, holds only for
epsilon below 1, and nothing ties the sensitivity to the clip, of which it is twice. A NaN passes its clip.
And it draws anew for each request.

The price is high: the mean of n noised updates has ``sqrt(n)`` times the noise of a central mean with the
same ``noise``, and half the multiplier.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.log import HospitalLog
from fedmerge.federation.plan.privacy import LocalPrivacy
from fedmerge.federation.policy.rules import read_policy
from fedmerge.federation.privacy.accounting import epsilon_of
from fedmerge.federation.privacy.noise import Draw, from_the_seed, from_the_system, noised, shortened, step_of
from fedmerge.models.state import State, state_hash
from fedmerge.models.weights import load_weights, write_weights
from fedmerge.storage.files import make_folder

if TYPE_CHECKING:
    from fedmerge.federation.messages.jobs import TrainJob

KEPT = 2  # replies kept in the folder
_PREFIX = "reply/"
_ASKED = {"privacy", "model", "normalisation", "seed", "training", "round", "purpose", "span"}


@dataclass(frozen=True)
class Demand:
    """The local noise that a hospital demands, whatever a server writes into its jobs.

    required: no update leaves without local noise. noise: the least, in units of the clip. clip: the longest
    update that may leave. epsilon: the most that all its replies together may spend, by its own log; None: no
    limit. delta: the hospital's own, for epsilon; with a delta from the job any noise could cost nothing.
    """

    required: bool = False
    noise: float = 0.0
    clip: float = math.inf
    epsilon: float | None = None
    delta: float = 1e-5

    @classmethod
    def of(cls, folder: Path | None) -> Demand:
        """Read the demand in a node's policy.yaml; a simulation has none."""
        least = None if folder is None else read_policy(folder).local_noise
        return cls() if least is None else cls(True, least.noise, least.clip, least.epsilon, least.delta)

    def check(self, site: str, options: LocalPrivacy | None) -> None:
        """Raise FedMergeError for a job with less noise than the hospital demands."""
        if options is None:
            if self.required:
                raise FedMergeError(
                    f"hospital '{site}' gives no update without noise of its own: set federation.privacy to "
                    "kind: local."
                )
            return
        if options.simulate and self != Demand():
            raise FedMergeError(
                f"hospital '{site}' demands noise that nobody can take off, but the job asks for simulated "
                "noise: set federation.privacy.simulate: false."
            )
        if options.clip > self.clip:
            raise FedMergeError(
                f"hospital '{site}' demands that its update is clipped to at most {self.clip:g}, but the job "
                f"asks for {options.clip:g}: set federation.privacy.clip to {self.clip:g}."
            )
        if options.noise < self.noise:
            raise FedMergeError(
                f"hospital '{site}' demands local noise of at least {self.noise:g} times the clip, but the "
                f"job asks for {options.noise:g}: set federation.privacy.noise to {self.noise:g}."
            )


class LocalNoise(HospitalLog):
    """A hospital's local noise: its replies so far, and its demand, which its policy may set.

    folder: of its node, where replies and their log outlive a restart; None keeps the last reply in memory,
    for ``state_dict``, and counts nothing.
    """

    def __init__(self, site: str, folder: Path | None = None, demand: Demand | None = None) -> None:
        super().__init__(None if folder is None else folder / "records", "local-noise.jsonl")
        self.site = site
        self.demand = Demand.of(folder) if demand is None else demand
        self._last: tuple[str, State] = "", {}

    def options(self, job: TrainJob) -> LocalPrivacy | None:
        """Return a job's local privacy. Raises FedMergeError if the hospital demands more noise."""
        options = job.privacy
        self.demand.check(self.site, options)
        if options is not None and job.personal != "none":
            raise FedMergeError(
                f"hospital '{self.site}' noises what it trained, but a part of the model is personal, and "
                "the server's journal would take that part as it is: set federation.personal: none."
            )
        return options

    def reply(self, options: LocalPrivacy, job: TrainJob, sent: State, state: State) -> State:
        """Return the noised weights that may leave. sent, state: the weights before and after training.

        Raises FedMergeError if the hospital has nothing left to spend.
        """
        if options.simulate:
            return local_update(
                sent, state, options, from_the_seed(job.seed, "local noise", job.round, self.site)
            )
        request = _request(job, sent)
        with self._locked():
            kept = self._kept(request)
            if kept is None:
                self._afford(options)
                kept = local_update(sent, state, options)
                self._keep(request, kept)
            self._count(request, kept, job.round, options)
        return kept

    def spent(self, *further: LocalPrivacy, delta: float = 1e-5) -> float:
        """Return epsilon of all replies in the hospital's log, and of ``further`` ones."""
        multipliers = [float(entry["noise"]) / 2 for entry in self._entries()]
        return epsilon_of([*multipliers, *(each.multiplier for each in further)], delta)

    def _afford(self, options: LocalPrivacy) -> None:
        most, delta = self.demand.epsilon, self.demand.delta
        if most is not None and self.spent(options, delta=delta) > most:
            raise FedMergeError(
                f"hospital '{self.site}' has spent epsilon = {self.spent(delta=delta):.3g} of {most:g} at "
                f"delta {delta:g} by local noise, and another reply would go beyond that: it takes no "
                "further part."
            )

    def _kept(self, request: str) -> State | None:
        if self._folder is None:
            return self._last[1] if self._last[0] == request else None
        path = self._path(request)
        return load_weights(path) if path.is_file() else None

    def _keep(self, request: str, reply: State) -> None:
        """Keep a reply before it leaves; delete older ones, which would be drawn and counted anew."""
        if self._folder is None:
            self._last = request, reply
            return
        make_folder(self._path(request).parent)
        write_weights(self._path(request), reply)
        answered = [str(entry["request"]) for entry in self._entries()]  # in order, whatever the clock says
        newest = [*dict.fromkeys([request, *reversed(answered)])][:KEPT]
        for path in self._path(request).parent.glob("*.safetensors"):
            if path.stem not in newest:
                path.unlink()

    def _count(self, request: str, reply: State, round: int, options: LocalPrivacy) -> None:
        """Record a reply once, before it leaves."""
        if self._folder is None:
            return
        entry = {"request": request, "reply": state_hash(reply)}
        if not any(entry.items() <= known.items() for known in self._entries()):
            said = {"noise": options.noise, "clip": options.clip, "delta": options.delta}
            self._append(entry | {"round": round} | said)

    def _path(self, request: str) -> Path:
        assert self._folder is not None
        return self._folder / "local-replies" / f"{request}.safetensors"

    def state_dict(self) -> State:
        """Return the last reply, for a process that ends between two messages; empty with a folder."""
        request, reply = self._last
        if not request:
            return {}
        held = {f"{_PREFIX}{key}": value for key, value in reply.items()}
        return held | {"request": torch.tensor(list(bytes.fromhex(request)), dtype=torch.uint8)}

    def load_state_dict(self, state: State) -> None:
        """Load a state from ``state_dict``."""
        request = bytes(state["request"].tolist()).hex() if state else ""
        reply = {key.removeprefix(_PREFIX): v for key, v in state.items() if key.startswith(_PREFIX)}
        self._last = request, reply


def local_update(sent: State, state: State, options: LocalPrivacy, draw: Draw = from_the_system) -> State:
    """Return ``sent + d min(1, clip / |d|) + N(0, (noise clip)^2)``, ``d = state - sent``, over all floats.

    Batch-norm statistics are floats like any other; integers are those of ``sent``. Raises FedMergeError if
    ``sent`` lacks the weights that were trained.
    """
    if sent.keys() != state.keys():
        raise FedMergeError("local noise is for an update of weights that were sent, but the job has none.")
    deviation = options.noise * options.clip
    step = step_of(deviation, options.clip)
    floats = sorted(key for key, value in sent.items() if value.is_floating_point())
    update = {key: state[key].detach().double().cpu() - sent[key].detach().double().cpu() for key in floats}
    changes = noised(shortened(update, options.clip, step)[0], deviation, step, draw)
    new = {key: value.detach().cpu().clone() for key, value in sent.items()}
    for key, change in changes.items():
        new[key] = (new[key].double() + change).to(new[key].dtype)
    return new


def _request(job: TrainJob, sent: State) -> str:
    """Return a hash of all that training depends on, the same for a retry and after a server's restart."""
    text = json.dumps(job.model_dump(mode="json", include=_ASKED), sort_keys=True) + state_hash(sent)
    return hashlib.sha256(text.encode()).hexdigest()
