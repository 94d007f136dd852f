"""Entropy-adaptive merging: for every batch, the merge of the source models that are sure of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.flat import FlatModels, MergedBatchNorm
from fedmerge.registry import Needs
from fedmerge.tasks import task_of
from fedmerge.testtime.answers import Answers, ask_all, check_temperatures, together
from fedmerge.testtime.contract import Trace
from fedmerge.testtime.guard import Guard, StreamMonitor
from fedmerge.testtime.merged import MergedModel
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import Online, apart
from fedmerge.testtime.options import Coefficients, Norms, Prediction
from fedmerge.testtime.originals import Originals, agreeing, networks
from fedmerge.testtime.passes import Passes
from fedmerge.testtime.probe import FULL, Probe
from fedmerge.testtime.remembered import move, remembered, take_up
from fedmerge.testtime.source_fit import fleiss_kappa, inseparability
from fedmerge.testtime.steps import Headed, Scored, trace_of
from fedmerge.testtime.stream_norms import shares_of
from fedmerge.testtime.weighting import Weigher, Weighting, by_class

COEFFICIENTS, NORMS, PREDICTION = Coefficients(), Norms(), Prediction()
"""The defaults of the groups: the paper's."""


@TESTTIME.method(
    "entropy-adaptive",
    title="Entropy-adaptive merging",
    paper="The Mean is the Mirage, arXiv 2602.21372",
    needs=Needs(individual_models=True, unlabelled_batches=True),
    misfits={},
)
class EntropyAdaptive(Online):
    """Merge M models anew for every unlabelled batch, weighted by how sure each of them is.

    With sources (phi_i, psi_i) of encoder f and head h, and H the mean normalised entropy over a batch B:

        alpha = softmax(-H_i / T),           H_i = H(h_psi_i(f_phi_i(B)))        phi = sum_i alpha_i phi_i
        beta  = softmax(-H'_j / T_head),     H'_j = H(h_psi_j(F)), F = f_phi(B)  psi = sum_j beta_j psi_j
        logits = h_psi(F)

    What a prediction is, its entropy and the mean of two follow from the models' task (``fedmerge.tasks``).
    The heads are scored on the features F of the merged encoder, which the prediction needs anyway, so a
    batch costs M + 1 passes of an encoder. Nothing is carried from batch to batch.

    models: at least one model of one architecture; copied, never changed.
    coefficients: how scores become coefficients (``Coefficients``). norms: whose batch-norm statistics the
        merged model uses (``Norms``). probe: how the sources are scored at less cost (``Probe``). guard: when
        a reference answers (``Guard``); None: never. predict: who answers, and how passes are made
        (``Prediction``). A configuration names the fields of a group that are not as here.
    batch_norm: merged variances of the ``"mixture"`` of moments, or their plain ``"average"``.
    source_temperatures: what each source's logits are divided by before scoring, its calibration.

    Attributes: ``trace`` (the last batch's), ``history`` (the latest since ``reset()``, one a batch),
    ``forward_passes`` (of an encoder over a batch since ``reset()``; finding head and blocks on two images of
    the first batch is not counted). A source whose outputs are not finite is left out of the batch and named
    in the trace. A model that is sure and wrong gets the largest coefficient: entropy cannot tell.

    Paper: The Mean is the Mirage, arXiv 2602.21372. Its abstract and figures state batch entropies, separate
    coefficients of encoder and head, and a single merged predictor; the formulas, the scoring of heads on
    merged features, the division by log C and T = 0.1 are our reconstruction, the other choices our readings.
    """

    temperatures: Tensor
    never_narrowed = ("temperatures",)

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        coefficients: Coefficients = COEFFICIENTS,
        norms: Norms = NORMS,
        probe: Probe = FULL,
        guard: Guard | None = None,
        predict: Prediction = PREDICTION,
        batch_norm: MergedBatchNorm = "mixture",
        source_temperatures: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        found = networks(models, "entropy-adaptive merging")
        agreeing(found)
        self.originals = Originals(found, merged=True)
        self.task = task_of(found[0])
        self.coefficients, self.predict, self.probe = coefficients, predict, probe
        class_wise = coefficients.head == "class-wise"
        if class_wise and not self.task.columns:
            raise FedMergeError(
                f"head coefficients by class need an output for each class, which task {self.task.name} does "
                "not have: take another head."
            )
        if not self.task.class_outputs and (
            coefficients.agreement < 1 or coefficients.statistic == "feature-separability"
        ):
            raise FedMergeError(
                "agreement and the statistic feature-separability ask for one class an image and an output "
                f"for each, which task {self.task.name} lacks: take another statistic and agreement 1."
            )
        self.weighting = Weighting(
            coefficients.statistic, coefficients.order, coefficients.normalised, self.task
        )
        self.by_image = replace(self.weighting, order="image") if class_wise else None
        self.weigher = Weigher(len(found), self.weighting, coefficients.memory, coefficients.memory_of)
        if predict.answer == "together" and (probe.size is not None or probe.every > 1):
            raise FedMergeError(
                "predicting together takes the sources' answers on every batch, at full size: take the "
                "probe's size and every out, or predict by the merged model."
            )
        self.register_buffer("temperatures", check_temperatures(source_temperatures, len(found)))
        self.merged = MergedModel(
            found,
            batch_norm=batch_norm,
            granularity=coefficients.granularity,
            norms=norms,
            scale=predict.scale,
            anchor=predict.anchor,
            head_module=predict.head_module,
            passes=Passes(predict.graphs, predict.precision),
        )
        self.monitor = None if guard is None else StreamMonitor(guard, self.sources.merged_model)
        self.reset()

    @property
    def sources(self) -> FlatModels:
        """The sources and the merged model, in one matrix."""
        return self.merged.sources

    def reset(self) -> None:
        """Start a new stream: nothing remembered, empty history, no trace, no forward passes."""
        super().reset()
        self.weigher.memory.reset()
        self.merged.stream.reset()
        if self.monitor is not None:
            self.monitor.reset()
        self.scored: Scored | None = None
        self.trace: Trace | None = None
        self.history: list[Trace] = []

    @torch.no_grad()
    def answer(self, batch: Tensor) -> tuple[Tensor, Trace]:
        """Return the logits of a batch and the coefficients and entropies that led to them.

        Raises FedMergeError where no source gives finite logits.
        """
        self.merged.prepare(batch)
        scored, answers, headed = self.scored, None, None
        if scored is not None and self.batches % self.probe.every:
            retained = dict(self.weigher.memory.retained)
            headed = self._by_merged(batch, scored, None)
            if self.probe.moved(headed.logits, scored.predictions, self.task):
                self.weigher.memory.retained, headed = retained, None
        if scored is None or headed is None:
            answers, scored = self._score(batch)
            headed = self._by_merged(batch, scored, answers)
            scored.predictions = self.task.p(headed.logits).mean(dim=0)
        self.scored = scored
        logits = headed.logits
        asked, chosen = answers is not None, None if answers is None else answers.chosen
        self.merged.learn_others(shares_of(self.task.p(logits)), asked, chosen)
        if self.predict.answer == "together" and answers is not None:
            logits = together(logits, answers, scored.alpha)
        faults: tuple[str, ...] = ()
        if self.monitor is not None:
            full = answers if self.probe.cost(batch) >= 1 else None
            ask = partial(self._ask, batch)
            logits, faults, passes = self.monitor.guarded(batch, logits, scored.alpha, answers, full, ask)
            self.forward_passes += passes
        self.trace = trace_of(scored, headed, logits, len(self.sources), answers is not None, faults)
        self.history.append(self.trace)
        if self.predict.history is not None:
            del self.history[: max(0, len(self.history) - self.predict.history)]
        return logits, self.trace

    def stream_state(self) -> dict[str, Tensor]:
        """What is carried from batch to batch (``remembered``)."""
        scored = self.scored if self.probe.every > 1 else None
        return remembered(self.weigher.memory, self.merged, scored, self.monitor)

    def take_stream(self, state: Mapping[str, Tensor]) -> None:
        """Take up what ``stream_state`` gave."""
        self.scored = take_up(state, self.weigher.memory, self.merged, self.monitor)

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move what is carried."""
        self.scored = move(fn, self.weigher.memory, self.scored)

    def _ask(self, batch: Tensor) -> Answers:
        self.forward_passes += len(self.sources)
        return ask_all(self.sources, batch, self.temperatures, passes=self.merged.passes)

    def _score(self, batch: Tensor) -> tuple[Answers, Scored]:
        """Score the sources on the probe of a batch, and merge the encoder by their scores."""
        chosen = self.probe.chosen(batch)
        images = self.probe.reduce(batch if chosen is None else batch[chosen])
        crossing = "cross" in (self.coefficients.encoder, self.coefficients.head)
        statistic = self.coefficients.statistic
        answers = ask_all(
            self.sources,
            images,
            self.temperatures,
            self.merged.head if crossing or statistic == "feature-separability" else None,
            chosen,
            self.merged.passes,
            norms=statistic == "norm-distance",
        )
        cost = self.probe.cost(batch)
        self.forward_passes += len(self.sources) * cost
        own = heads = self._own_scores(answers)
        if crossing:
            table = torch.stack([self._head_scores(each, answers.finite) for each in answers.features])
            heads = table.mean(dim=0)
            own = table.mean(dim=1) if self.coefficients.encoder == "cross" else own
        alpha = self.weigher.weights("encoder", own, answers.finite, self.coefficients.temperature)
        uniform = self.coefficients.agreement < 1 and (
            fleiss_kappa(answers.logits) > self.coefficients.agreement
        )
        alpha = torch.full_like(alpha, 1 / len(alpha)) if uniform else alpha
        scored = Scored(answers.finite, own, heads, [alpha] * len(self.merged.groups), uniform=uniform)
        for group in self.merged.groups:
            self.merged.merge(group, alpha, answers.finite)
        if len(self.merged.groups) > 1 and not uniform:
            self._weigh_groups(scored, images, cost)
        return answers, scored

    def _own_scores(self, answers: Answers) -> Tensor:
        if self.coefficients.statistic == "norm-distance":
            assert answers.distances is not None
            return answers.distances
        if self.coefficients.statistic == "feature-separability":
            pairs = zip(answers.features, answers.logits, strict=True)
            return torch.stack([inseparability(features, logits) for features, logits in pairs])
        return self.weighting.scores(answers.logits)

    def _weigh_groups(self, scored: Scored, images: Tensor, cost: float) -> None:
        """Compute the coefficients of each group in turn: try every source's group in the present merge."""
        self.merged.merge("head", scored.alphas[0], scored.finite)
        for number, group in enumerate(self.merged.groups):
            tried = []
            for index in scored.finite.tolist():
                self.sources.put(group, index)
                tried.append(self.merged.predict(images))
            found = self.weighting.scores(torch.stack(tried))
            alpha = self.weigher.weights(group, found, scored.finite, self.coefficients.temperature)
            scored.alphas[number] = alpha
            self.merged.merge(group, alpha, scored.finite)
            self.forward_passes += len(tried) * cost

    def _head_scores(self, features: Tensor, finite: Tensor) -> Tensor:
        logits = self.merged.heads(features, finite) / self.temperatures[finite, None, None]
        return self.weighting.scores(logits)

    def _by_merged(self, batch: Tensor, scored: Scored, answers: Answers | None) -> Headed:
        """Run the merged encoder once, and answer by a head whose coefficients may rest on its features."""
        q, chosen = (None, None) if answers is None else (shares_of(answers.mean()), answers.chosen)
        features = self.merged.features(batch, q, chosen)
        self.forward_passes += 1
        finite, scores = scored.finite, None
        if self.by_image is not None and not scored.uniform:
            predictions = self.merged.heads(features, finite)
            tempered = predictions / self.temperatures[finite, None, None]
            scores = self.by_image.scores(tempered)
            share = self.task.probabilities(tempered).mean(dim=0)
            beta = by_class(scores, share, self.coefficients.of_head)
            return Headed((beta[:, None] * predictions).sum(dim=0), beta.mean(dim=1), scores)
        if self.coefficients.head == "shared" or scored.uniform:
            beta = scored.alpha
        else:
            scores = (
                scored.heads if self.coefficients.head == "cross" else self._head_scores(features, finite)
            )
            beta = self.weigher.weights("head", scores, finite, self.coefficients.of_head)
        self.merged.merge("head", beta, finite)
        return Headed(self.merged.answer(features), beta, scores)
