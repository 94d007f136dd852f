"""Entropy-adaptive merging: for every batch, the merge of the source models that are sure of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.flat import FlatModels
from fedmerge.models.heads import apply_head, check_head, features_and_logits, find_head
from fedmerge.registry import Needs
from fedmerge.testtime.batch import check_batch, taking
from fedmerge.testtime.contract import Trace
from fedmerge.testtime.entropy import check_temperature, coefficients, sample_entropies
from fedmerge.testtime.methods import TESTTIME


@TESTTIME.method(
    "entropy-adaptive",
    title="Entropy-adaptive merging",
    paper="The Mean is the Mirage, arXiv 2602.21372",
    needs=Needs(individual_models=True, unlabelled_batches=True),
)
class EntropyAdaptive(nn.Module):
    """Merge M models anew for every unlabelled batch, weighted by how sure each of them is.

    With sources (phi_i, psi_i) of encoder f and head h, and H the mean normalised entropy over a batch B:

        alpha = softmax(-H_i / T),           H_i = H(h_psi_i(f_phi_i(B)))        phi = sum_i alpha_i phi_i
        beta  = softmax(-H'_j / T_head),     H'_j = H(h_psi_j(F)), F = f_phi(B)  psi = sum_j beta_j psi_j
        logits = h_psi(F)

    The heads are scored on the features F of the merged encoder, which the prediction needs anyway, so a
    batch costs M + 1 passes of an encoder. Nothing is carried from batch to batch.

    models: at least one model of one architecture; copied, never changed.
    temperature: T > 0; infinity is mean merging, towards 0 the surest model alone.
    head_temperature: T_head; T where not given.
    head: ``"merged-features"`` as above, or ``"shared"``: beta = alpha, no scoring of heads.
    batch_norm: merged variances of the ``"mixture"`` of moments, or their plain ``"average"``.
    source_temperatures: a positive number a source, its calibration: what it and its head say is divided by
        it before it is scored. None: 1 for each.
    head_module: name of the classification head; found on the first batch where not given.

    Attributes: ``trace`` (the last batch's), ``history`` (one each batch since ``reset()``),
    ``forward_passes`` (of an encoder over a batch since ``reset()``; finding the head, once, on two images
    of the first batch is not counted). A model that is sure and wrong gets the largest coefficient: entropy
    cannot tell.

    Paper: The Mean is the Mirage, arXiv 2602.21372. Its abstract and figures state batch entropies, separate
    coefficients of encoder and head, and a single merged predictor; the formulas, the scoring of heads on
    merged features, the division by log C and T = 0.1 are our reconstruction.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        temperature: float = 0.1,
        head_temperature: float | None = None,
        head: Literal["merged-features", "shared"] = "merged-features",
        batch_norm: Literal["mixture", "average"] = "mixture",
        source_temperatures: Sequence[float] | None = None,
        head_module: str | None = None,
    ) -> None:
        super().__init__()
        if len(models) < 1:
            raise FedMergeError("entropy-adaptive merging needs at least one model; none was given.")
        if head not in ("merged-features", "shared"):
            raise FedMergeError(f"unknown head coefficients '{head}'. Allowed: merged-features, shared.")
        self.temperature = temperature
        self.head_temperature = temperature if head_temperature is None else head_temperature
        check_temperature(self.temperature)
        check_temperature(self.head_temperature, "head_temperature")
        self.head = head
        self.source_temperatures = _temperatures(source_temperatures, len(models))
        self.head_module = head_module
        self.sources = FlatModels(models, models[0], batch_norm=batch_norm)
        self.reset()

    def reset(self) -> None:
        """Start a new stream: empty history, no trace, no forward passes."""
        self.trace: Trace | None = None
        self.history: list[Trace] = []
        self.forward_passes = self.backward_passes = 0

    def observe(self, batch: Tensor) -> tuple[Tensor, Trace]:
        """Return the logits of a batch and the coefficients and entropies that led to them."""
        logits = self(batch)
        return logits, self.history[-1]

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        """Return logits N x C for a float batch N x C x H x W as the models take it; N = 1 is allowed.

        Raises FedMergeError for an empty batch, one the models cannot take, and a source whose logits are
        not finite.
        """
        check_batch(batch)
        logits = self._source_logits(batch)
        head = self._split(batch[:2])
        entropies = sample_entropies(logits).mean(dim=1)
        alpha = coefficients(entropies, self.temperature)
        self.sources.merge("encoder", alpha)
        if self.head == "shared":
            self.sources.merge("head", alpha)
            beta, head_entropies = alpha, None
            prediction = self.sources.merged_model(batch).flatten(1)
        else:
            features, _ = features_and_logits(self.sources.merged_model, head, batch)
            scores = self._head_logits(head, features)
            head_entropies = sample_entropies(scores).mean(dim=1)
            beta = coefficients(head_entropies, self.head_temperature)
            self.sources.merge("head", beta)
            prediction = apply_head(self.sources.merged_model, head, features)
        self.forward_passes += len(self.sources) + 1
        self._record(logits, entropies, alpha, beta, head_entropies)
        return prediction

    def _source_logits(self, batch: Tensor) -> Tensor:
        """The logits of every source, each divided by its temperature, M x N x C."""
        with taking(batch, "the models"):
            return torch.stack(
                [
                    self.sources.model(index)(batch).flatten(1) / temperature
                    for index, temperature in enumerate(self.source_temperatures)
                ]
            )

    def _head_logits(self, head: str, features: Tensor) -> Tensor:
        """What every source's head says of the same features, each divided likewise, M x N x C."""
        return torch.stack(
            [
                apply_head(self.sources.model(index), head, features) / temperature
                for index, temperature in enumerate(self.source_temperatures)
            ]
        )

    def _split(self, example: Tensor) -> str:
        """The name of the head, found or checked on the first batch."""
        if self.sources.head is None:
            if self.head_module is None:
                self.head_module = find_head(self.sources.model(0), example)
            else:
                check_head(self.sources.model(0), self.head_module, example)
            self.sources.split(self.head_module)
        assert self.sources.head is not None
        return self.sources.head

    def _record(
        self, logits: Tensor, entropies: Tensor, alpha: Tensor, beta: Tensor, head_entropies: Tensor | None
    ) -> None:
        """Keep the trace: the only read back from the device, after all work on it has been queued."""
        finite = torch.isfinite(logits).flatten(1).all(dim=1)
        rows = [
            finite.to(alpha),
            alpha,
            beta,
            entropies,
            entropies if head_entropies is None else head_entropies,
        ]
        ok, encoder, head, source, merged = torch.stack(rows).tolist()
        if 0.0 in ok:
            raise FedMergeError(
                f"models[{ok.index(0.0)}] gives logits that are not finite on this batch; leave it out, "
                "or check its weights and the batch's normalisation."
            )
        self.trace = Trace(
            tuple(encoder),
            tuple(head),
            tuple(source),
            None if head_entropies is None else tuple(merged),
            logits.shape[1],
        )
        self.history.append(self.trace)


def _temperatures(given: Sequence[float] | None, sources: int) -> tuple[float, ...]:
    """The calibration temperature of each source, 1 where none are given."""
    if given is None:
        return (1.0,) * sources
    if len(given) != sources or not all(0 < value < float("inf") for value in given):
        raise FedMergeError(
            f"source_temperatures must be one positive number for each of the {sources} models; "
            f"given: {list(given)}."
        )
    return tuple(float(value) for value in given)
