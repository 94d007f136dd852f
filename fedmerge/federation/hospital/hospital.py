"""A hospital: how it answers the server's requests. Its images never enter a message."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Message
from torch import nn

from fedmerge.analysis import fit_temperature, rates
from fedmerge.data import Site
from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.control import HospitalControl
from fedmerge.federation.hospital.inspection import MINIMUM as LEAST
from fedmerge.federation.hospital.inspection import reply_with
from fedmerge.federation.hospital.private_training import LocalNoise
from fedmerge.federation.hospital.secure.ledger import Subject
from fedmerge.federation.hospital.secure.rounds import SecureHospital
from fedmerge.federation.hospital.secure.rules import SecureRules
from fedmerge.federation.hospital.sums.answer import HospitalSums
from fedmerge.federation.hospital.sums.masks import check_label, to_words
from fedmerge.federation.hospital.sums.rules import SumRules, rules_of
from fedmerge.federation.hospital.sums.session_store import SessionStore
from fedmerge.federation.messages.client_state import ClientState, client_state_tensors
from fedmerge.federation.messages.control_variates import divided, sent_tensors
from fedmerge.federation.messages.jobs import (
    EvaluateJob,
    GreetingJob,
    MemoryJob,
    NetworkJob,
    RestoreJob,
    TrainJob,
)
from fedmerge.federation.messages.networks import check_fits, tensors_of
from fedmerge.federation.messages.reading import read_job, read_tensors
from fedmerge.federation.messages.records import reply_message
from fedmerge.federation.messages.secure import SecureEvaluateJob, SecureSumsJob, SecureTrainJob
from fedmerge.federation.messages.tensors import NO_TENSORS
from fedmerge.federation.plan.personal import Personal, personal_entries
from fedmerge.federation.plan.plan import START_IS_SHARED
from fedmerge.federation.policy.guard import Guard
from fedmerge.federation.privacy.masked import TRAINED, encode_means, encode_scores, encode_weights, flatten
from fedmerge.federation.privacy.secure_keys import no_keys
from fedmerge.models.predict import predict
from fedmerge.models.state import State, state_hash
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.seeding import Draws, derive
from fedmerge.tasks import MULTICLASS
from fedmerge.training import Segment, fit

StepProgress = Callable[[int, int], None]


class Hospital:
    """One hospital: its images, a network to load weights into, and its replies to requests.

    The network is shared by all hospitals of a process: every message overwrites its weights. memory: the
    client state, where a job makes a part of the model personal. minimum: the fewest images over which it
    gives sums, where that is more than in ``sum_rules``. session_store: where it keeps a fusion's models, if
    each message may reach another process. folder: of its node, with what it must know after a restart; None
    in a simulation. sum_rules: which sums it gives; None: the rules in its folder. guard: checks every
    message of a deployed hospital against its policy.
    """

    def __init__(
        self,
        site: Site,
        device: str = "cpu",
        progress: StepProgress | None = None,
        minimum: int = 1,
        session_store: SessionStore | None = None,
        folder: Path | None = None,
        guard: Guard | None = None,
        sum_rules: SumRules | None = None,
    ) -> None:
        self.folder = folder
        self.guard = guard
        self.site = site
        self.device = device
        self.progress = progress
        self.memory = ClientState()
        self.local = LocalNoise(site.name, folder)
        rules = (sum_rules or rules_of(folder)).at_least(minimum)
        self.sums = HospitalSums(site, device, rules, session_store, folder)
        self.secure = SecureHospital(site.name, folder, SecureRules.of(folder), self.sums.ledger)

    def describe(self, message: Message) -> Message:
        """Reply with its name, its number of images by split and class, and their pixel spacing if known."""
        read_job(message, GreetingJob)
        read_tensors(message, NO_TENSORS)
        site = self.site
        numbers: dict[str, int | list[int] | list[float]] = {
            "num-examples": len(site.train),
            "num-validation": len(site.val),
            "class-counts": site.train.class_counts(site.n_classes).tolist(),
        }
        known = None if site.files is None else site.files.spacing
        least = 1 if self.guard is None else self.guard.policy.suppress_below
        if known is not None and known.images >= least:
            numbers["pixel-spacing"] = [known.rows, known.columns, float(known.varies)]
        task = {} if site.task is MULTICLASS else {"task": site.task.name}
        return reply_message(message, numbers, texts={"name": site.name} | task)

    def inspect(self, message: Message) -> Message:
        """Reply with a description of its images before training: sizes, classes, intensities, copies."""
        if self.guard is None:
            return reply_with(message, self.site, LEAST)
        policy = self.guard.policy
        return reply_with(message, self.site, policy.suppress_below, policy.inspection_checks)

    def train(self, message: Message) -> Message:
        """Train the received weights, or an initialisation of its own; reply with new weights and numbers.

        The personal part of the model begins as this hospital's last round left it. The reply has all of the
        model; a hospital without a personal part begins with the server's mean of them. With local privacy
        the weights are clipped and noised before they leave.
        """
        metrics, _, leaving = self._trained(message, read_job(message, TrainJob))
        return reply_message(message, metrics, leaving)

    def train_secure(self, message: Message) -> Message:
        """Train as ``train`` does, but reply with keys; weights, counts and scores wait to be summed.

        The reply tells only the seconds, which the server can measure itself. The secure sum is bound to the
        weights before noise, because a repeated round draws other noise.
        """
        job = read_job(message, SecureTrainJob)
        metrics, state, leaving = self._trained(message, job)
        images = len(self.site.train)
        weights = encode_weights(leaving, images, job.batch_norm)
        words = np.concatenate([encode_means(images, {name: metrics[name] for name in TRAINED}), weights])
        numbers = flatten(state)
        start = {} if job.start == "own" else read_tensors(message, tensors_of(job.model))
        moved = numbers - flatten(start) if start else numbers
        subject = Subject.of(job.label, state_hash(state), self.secure.ledger, numbers, moved)
        keys = self.secure.offer(subject, words)
        return reply_message(message, {"seconds": metrics["seconds"]}, texts=keys)

    def _trained(self, message: Message, job: TrainJob) -> tuple[dict[str, float], State, State]:
        """Train as a message says; return the metrics, the weights, and the weights that may leave."""
        private, sent, control = self.local.options(job), State(), None
        if job.start == "own":
            read_tensors(message, NO_TENSORS)
            model = self._own_start(job)
        else:
            check_fits(job.model, self.site)
            sent, c = divided(read_tensors(message, sent_tensors(job)))
            model = self._loaded(job, sent | self._kept(job.personal, job.round))
            if job.control:
                control = HospitalControl(job, sent, c, self.memory, len(self.site.train))
        result = fit(
            model.to(self.device),
            self.site.train.images,
            self.site.train.labels,
            job.training,
            normalise=job.normalisation.at(self.site),
            draws=Draws(job.seed, purpose=job.purpose, round=job.round, site=self.site.name),
            segment=Segment(job.span, None if control is None else control.correction),
            progress=self.progress,
        )
        metrics: dict[str, float] = {
            "num-examples": len(self.site.train),
            "loss": result.losses[-1],
            "accuracy": result.accuracies[-1],
            "seconds": result.seconds,
            "steps": result.steps,
            "merges": sum(result.merges.values()),
        }
        state = {key: value.to("cpu", copy=True) for key, value in model.state_dict().items()}
        if job.personal != "none":
            if self.memory.round < job.since:
                metrics["forgot"] = 1
            entries = personal_entries(job.model, job.personal)
            self.memory.keep(job.round, {key: state[key] for key in entries})
        if control is not None:
            metrics |= {"forgot": 1} if control.lost else {}
            control.keep(state)
        if private is None:
            return metrics, state, state
        return metrics, state, self.local.reply(private, job, sent, state)

    def evaluate(self, message: Message) -> Message:
        """Score the received weights on the validation split; reply with numbers only.

        With ``personal`` in the job, the model is scored with this hospital's own part. With ``calibrate``,
        the reply has the ``temperature`` fitted on the validation split, too. The task's own score comes
        beside accuracies; where it is not defined (images of one kind alone), as NaN.
        """
        return reply_message(message, self._scored(message, read_job(message, EvaluateJob)))

    def evaluate_secure(self, message: Message) -> Message:
        """Score as ``evaluate`` does, but reply with keys; the numbers wait to be summed with others'."""
        job = read_job(message, SecureEvaluateJob)
        scores = self._scored(message, job)
        images = int(scores.pop("num-examples"))
        said = json.dumps([state_hash(read_tensors(message, tensors_of(job.model))), job.calibrate])
        digest = hashlib.sha256(said.encode()).hexdigest()
        subject = Subject.of(job.label, digest, self.secure.ledger)
        words = encode_scores(images, scores, self.site.task)
        return reply_message(message, {}, texts=self.secure.offer(subject, words))

    def sums_secure(self, message: Message) -> Message:
        """Reply to a question about sums over images with keys; the sums wait to be added to others'.

        Raises FedMergeError for a question that its rules refuse, or that is not the one of the label.
        """
        job = read_job(message, SecureSumsJob)
        found = self.sums.packed(message, job)
        if found is None or job.kind == "walk":
            return reply_message(message, {"known": int(found is not None)}, texts=no_keys(self.site.name))
        check_label(job.label, found.digest, self.site.name)
        words = to_words(found.sums)
        digest = hashlib.sha256(words.tobytes()).hexdigest()
        subject = replace(Subject.of(job.label, digest, self.secure.ledger), images=found.images)
        return reply_message(message, {"known": 1}, texts=self.secure.offer(subject, words))

    def _scored(self, message: Message, job: EvaluateJob) -> dict[str, float]:
        """Return the scores of the weights in an evaluation message."""
        val = self.site.val
        model = self._load(message, job, self._kept(job.personal))
        logits = predict(model, val.images, job.normalisation.at(self.site), device=self.device)
        task = self.site.task
        accuracy, balanced = rates(logits, val.labels, task)
        metrics: dict[str, float] = {
            "num-examples": len(val),
            "loss": float(task.loss(logits, val.labels)),
            "accuracy": accuracy,
            "balanced_accuracy": balanced,
        }
        if task.headline not in metrics:
            metrics[task.headline] = task.score(logits, val.labels)
        if job.calibrate:
            metrics["temperature"] = fit_temperature(logits, val.labels, task)
        return metrics

    def tell_memory(self, message: Message) -> Message:
        """Reply with the client state, for the server's journal."""
        read_job(message, MemoryJob)
        read_tensors(message, NO_TENSORS)
        return reply_message(message, {"round": self.memory.round}, self.memory.state_dict())

    def restore_memory(self, message: Message) -> Message:
        """Load the client state from the server's journal; a message without one clears it."""
        job = read_job(message, RestoreJob)
        check_fits(job.model, self.site)
        forms = client_state_tensors(job.model, job.personal, job.control)
        self.memory.load_state_dict(read_tensors(message, forms))
        return reply_message(message, {"round": self.memory.round})

    def _kept(self, personal: Personal, round: int | None = None) -> State:
        """Return the personal entries to begin ``round`` with; for None, the latest."""
        if personal == "none":
            return {}
        return self.memory.latest if round is None else self.memory.recall(round)

    def _own_start(self, job: NetworkJob) -> nn.Module:
        """Return a network initialised from (seed, "start", this site); pretrained weights are kept."""
        check_fits(job.model, self.site)
        if isinstance(job.model.pretrained, str):  # a server must not choose files of this machine
            raise FedMergeError(START_IS_SHARED)
        return build(job.model, derive(job.seed, "start", site=self.site.name)).to(self.device)

    def _load(self, message: Message, job: NetworkJob, own: State) -> nn.Module:
        """Return the network with the received weights, except for the entries in ``own``."""
        check_fits(job.model, self.site)
        return self._loaded(job, read_tensors(message, tensors_of(job.model)) | own)

    def _loaded(self, job: NetworkJob, state: State) -> nn.Module:
        model = _network(job.model.untrained().model_dump_json(), self.device)
        model.load_state_dict(state)
        return model


@lru_cache(maxsize=1)
def _network(spec: str, device: str) -> nn.Module:
    """Return the network of a description (JSON), built once per process, for loading weights into."""
    return build(ModelSpec.model_validate_json(spec), 0).to(device)
