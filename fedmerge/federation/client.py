"""A hospital: the Flower ClientApp that answers the server. Its images never enter a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.nn.functional import cross_entropy

from fedmerge.analysis import fit_temperature, scores
from fedmerge.data import Site
from fedmerge.federation.records import METRICS, job_of, reply, state_of
from fedmerge.federation.sums import MINIMUM, HospitalSums
from fedmerge.models.inputs import Normalisation
from fedmerge.models.predict import predict
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.seeding import derive
from fedmerge.training import TrainingOptions, fit

Progress = Callable[[int, int], None]


class Hospital:
    """One hospital's side of the conversation: its data, a network to load weights into, and its answers.

    The network is built once; its weights are overwritten by every message. minimum: the fewest images over
    which it gives sums.
    """

    def __init__(
        self, site: Site, device: str = "cpu", progress: Progress | None = None, minimum: int = MINIMUM
    ) -> None:
        self.site = site
        self.device = device
        self.progress = progress
        self.sums = HospitalSums(site, device, minimum)
        self._model: tuple[ModelSpec, nn.Module] | None = None

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
        """Train the received weights, or an initialisation of its own; answer new weights and numbers."""
        job = job_of(message)
        model = self._own_start(job) if job.get("start") == "own" else self._load(message)
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
        return reply(message, metrics, state)

    def evaluate(self, message: Message) -> Message:
        """Score the received weights on the validation split; answer numbers only.

        A job that says ``calibrate`` is answered with the ``temperature`` fitted there, too.
        """
        job = job_of(message)
        val = self.site.val
        logits = predict(
            self._load(message), val.images, Normalisation(**job["normalisation"]), device=self.device
        )
        result = scores(logits, val.labels)
        metrics = {
            "num-examples": len(val),
            "loss": float(cross_entropy(logits, val.labels)),
            "accuracy": result.accuracy,
            "balanced_accuracy": result.balanced_accuracy,
        }
        if job.get("calibrate"):
            metrics["temperature"] = fit_temperature(logits, val.labels)
        return reply(message, metrics)

    def _own_start(self, job: dict[str, Any]) -> nn.Module:
        """A network initialised from (seed, "start", this site); pretrained weights stay what they are."""
        seed = derive(job["seed"], "start", site=self.site.name)
        return build(ModelSpec(**job["model"]), seed).to(self.device)

    def _load(self, message: Message) -> nn.Module:
        job = job_of(message)
        spec = ModelSpec(**job["model"])
        if self._model is None or self._model[0] != spec:
            self._model = (spec, build(spec, job["seed"]).to(self.device))
        model = self._model[1]
        model.load_state_dict(state_of(message))
        return model


def client_app(hospital_of: Callable[[Context], Hospital]) -> ClientApp:
    """The Flower ClientApp of a hospital; ``hospital_of`` finds the hospital a Context speaks for.

    It answers ``query`` (who are you), ``train``, ``evaluate``, and ``query.sums_begin`` and ``query.sums``
    (sums over its images, for a fusion).
    """
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return hospital_of(context).describe(message)

    @app.query("sums_begin")
    def sums_begin(message: Message, context: Context) -> Message:
        return hospital_of(context).sums.begin(message)

    @app.query("sums")
    def sums(message: Message, context: Context) -> Message:
        return hospital_of(context).sums.answer(message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return hospital_of(context).train(message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return hospital_of(context).evaluate(message)

    return app
