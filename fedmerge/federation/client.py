"""A hospital: the Flower ClientApp that answers the server. Its images never enter a message."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.nn.functional import cross_entropy

from fedmerge.analysis import fit_temperature, rates
from fedmerge.data import Site
from fedmerge.errors import FedMergeError
from fedmerge.federation import faults
from fedmerge.federation.grids.simulated import failed
from fedmerge.federation.memory import HospitalMemory, personal_entries
from fedmerge.federation.privacy.local import LocalNoise
from fedmerge.federation.privacy.secure_round import HospitalShare
from fedmerge.federation.records import ARRAYS, METRICS, job_of, reply, state_of
from fedmerge.federation.sums.hospital import MINIMUM, HospitalSums
from fedmerge.federation.sums.shelf import Shelf
from fedmerge.models.inputs import Normalisation
from fedmerge.models.predict import predict
from fedmerge.models.state import State
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.seeding import derive
from fedmerge.training import TrainingOptions, fit

Progress = Callable[[int, int], None]
Answer = Callable[[Message], Message]
MEMORY, SHARE, LOCAL = "memory", "share", "local"  # what a Flower Context holds of a hospital


class Hospital:
    """One hospital's side of the conversation: its data, a network to load weights into, and its answers.

    The network is shared by all hospitals of a process: every message overwrites its weights. memory: what
    it keeps between rounds, where a job says that a part of the model is personal. minimum: the fewest images
    over which it gives sums. shelf: where it lays aside a fusion's models, if each message may meet another
    process. folder: of its node, where what it must know after a restart is kept; None in a simulation.
    """

    def __init__(
        self,
        site: Site,
        device: str = "cpu",
        progress: Progress | None = None,
        minimum: int = MINIMUM,
        shelf: Shelf | None = None,
        folder: Path | None = None,
    ) -> None:
        self.folder = folder
        self.site = site
        self.device = device
        self.progress = progress
        self.memory = HospitalMemory()
        self.share = HospitalShare(site.name, len(site.train))
        self.local = LocalNoise(site.name, folder)
        self.sums = HospitalSums(site, device, minimum, shelf)

    def describe(self, message: Message) -> Message:
        """Answer who this is: name, and the number of images by split and class."""
        site = self.site
        content = RecordDict(
            {
                "site": ConfigRecord({"name": site.name}),
                METRICS: MetricRecord(
                    {
                        "num-examples": len(site.train),
                        "num-validation": len(site.val),
                        "class-counts": site.train.class_counts(site.n_classes).tolist(),
                    }
                ),
            }
        )
        return Message(content, reply_to=message)

    def train(self, message: Message) -> Message:
        """Train the received weights, or an initialisation of its own; answer new weights and numbers.

        The personal part of the model begins as this hospital's last round left it; the answer has all of
        the model, and the server's mean of the personal parts is what a hospital without one begins with.
        With local privacy the weights are clipped and noised before anything else sees them. With secure
        aggregation they stay here, and the answer has a key instead.
        """
        job = job_of(message)
        private = self.local.options(job)
        own = job.get("start") == "own"
        model = self._own_start(job) if own else self._load(message, self._personal(job, job["round"]))
        result = fit(
            model,
            self.site.train.images,
            self.site.train.labels,
            TrainingOptions(**job["training"]),
            normalise=Normalisation(**job["normalisation"]),
            seed=job["seed"],
            site=self.site.name,
            round=job["round"],
            purpose=job["purpose"],
            span=tuple(job["span"]),
            device=self.device,
            progress=self.progress,
        )
        metrics = {
            "num-examples": len(self.site.train),
            "loss": result.losses[-1],
            "accuracy": result.accuracies[-1],
            "seconds": result.seconds,
            "steps": result.steps,
            "merges": sum(result.merges.values()),
        }
        state = {key: value.to("cpu", copy=True) for key, value in model.state_dict().items()}
        if "personal" in job:
            if self.memory.round < job.get("since", 0):
                metrics["forgot"] = 1
            entries = personal_entries(ModelSpec(**job["model"]), job["personal"])
            self.memory.keep(job["round"], {key: state[key] for key in entries})
        if private is not None:
            state = self.local.answer(
                private, job, state_of(message) if ARRAYS in message.content else {}, state
            )
        if job.get("secure"):
            state = self.share.offer(job["round"], state)
        return reply(message, metrics, state)

    def evaluate(self, message: Message) -> Message:
        """Score the received weights on the validation split; answer numbers only.

        A job that says ``personal`` is about the model that this hospital would use: with its own part. One
        that says ``calibrate`` is answered with the ``temperature`` fitted there, too.
        """
        job = job_of(message)
        val = self.site.val
        model = self._load(message, self._personal(job))
        logits = predict(model, val.images, Normalisation(**job["normalisation"]), device=self.device)
        accuracy, balanced = rates(logits, val.labels)
        metrics = {
            "num-examples": len(val),
            "loss": float(cross_entropy(logits, val.labels)),
            "accuracy": accuracy,
            "balanced_accuracy": balanced,
        }
        if job.get("calibrate"):
            metrics["temperature"] = fit_temperature(logits, val.labels)
        return reply(message, metrics)

    def tell_memory(self, message: Message) -> Message:
        """Answer what it keeps between rounds, for the server's journal."""
        return reply(message, {"round": self.memory.round}, self.memory.state_dict())

    def restore_memory(self, message: Message) -> Message:
        """Take over a memory from the server's journal; a message without one is to forget."""
        self.memory.load_state_dict(state_of(message) if ARRAYS in message.content else {})
        return reply(message, {"round": self.memory.round})

    def _personal(self, job: dict[str, Any], round: int | None = None) -> State:
        """The personal entries to begin a round with, or, without one, the latest."""
        if "personal" not in job:
            return {}
        return self.memory.latest if round is None else self.memory.recall(round)

    def _check_fits(self, spec: ModelSpec) -> None:
        site, taken = self.site, (spec.in_channels, spec.image_size, spec.image_size)
        held = tuple(site.train.images.shape[1:])
        if (held, site.n_classes) != (taken, spec.n_classes):
            raise FedMergeError(
                f"the images of '{site.name}' are {' x '.join(map(str, held))} (channels, height, width) of "
                f"{site.n_classes} classes, and the model takes {' x '.join(map(str, taken))} of "
                f"{spec.n_classes}: set size:, channels: and classes: in the hospital's file as the others "
                "have them."
            )

    def _own_start(self, job: dict[str, Any]) -> nn.Module:
        """A network initialised from (seed, "start", this site); pretrained weights stay what they are."""
        seed = derive(job["seed"], "start", site=self.site.name)
        spec = ModelSpec(**job["model"])
        self._check_fits(spec)
        return build(spec, seed).to(self.device)

    def _load(self, message: Message, own: State) -> nn.Module:
        """The network with the received weights, but for the entries in ``own``."""
        spec = ModelSpec(**job_of(message)["model"])
        self._check_fits(spec)
        model = _network(spec.model_copy(update={"pretrained": False}).model_dump_json(), self.device)
        model.load_state_dict(state_of(message) | own)
        return model


@lru_cache(maxsize=1)
def _network(spec: str, device: str) -> nn.Module:
    """The network of a description (JSON), built once a process, for weights to be loaded into."""
    return build(ModelSpec.model_validate_json(spec), 0).to(device)


def client_app(hospital_of: Callable[[Context], Hospital], *, memory_in_context: bool = False) -> ClientApp:
    """The Flower ClientApp of a hospital; ``hospital_of`` finds the hospital a Context speaks for.

    It answers ``query`` (who are you), ``train``, ``evaluate``, ``query.sums_begin`` and ``query.sums``
    (sums over its images, for a fusion), ``query.memory`` and ``query.restore`` (what it keeps between
    rounds), and ``query.secure_sum`` (its weights, masked).
    memory_in_context: a hospital's memory is kept in the Context's state, because each message may meet
    another process (Flower's own runtimes). That state travels with each message, but not to the server.
    """
    app = ClientApp()

    def answer(context: Context, message: Message, how: Callable[[Hospital], Answer]) -> Message:
        try:
            return remembered(context, message, how)
        except FedMergeError as error:  # a sentence is an answer, and the same one under every runtime
            return failed(message, error)

    def remembered(context: Context, message: Message, how: Callable[[Hospital], Answer]) -> Message:
        hospital = hospital_of(context)
        if not memory_in_context:
            return how(hospital)(message)
        for name, part in ((MEMORY, hospital.memory), (SHARE, hospital.share), (LOCAL, hospital.local)):
            kept = context.state.array_records.get(name)
            part.load_state_dict({} if kept is None else dict(kept.to_torch_state_dict()))
        told = how(hospital)(message)
        context.state[MEMORY] = ArrayRecord(hospital.memory.state_dict())
        context.state[SHARE] = ArrayRecord(hospital.share.state_dict())
        context.state[LOCAL] = ArrayRecord(hospital.local.state_dict())
        return told

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.describe)

    @app.query("sums_begin")
    def sums_begin(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.sums.begin)

    @app.query("sums")
    def sums(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.sums.answer)

    @app.query("memory")
    def memory(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.tell_memory)

    @app.query("restore")
    def restore(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.restore_memory)

    @app.query("secure_sum")
    def secure_sum(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.share.answer)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: partial(faults.train, hospital))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(context, message, lambda hospital: hospital.evaluate)

    return app
