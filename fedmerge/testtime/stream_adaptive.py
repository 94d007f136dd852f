"""Entropy-adaptive merging whose batch norms learn the unseen site's scanner."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fedmerge.models.flat import MergedBatchNorm
from fedmerge.registry import Needs
from fedmerge.testtime.entropy_adaptive import PREDICTION, EntropyAdaptive
from fedmerge.testtime.guard import Guard
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.options import Coefficients, Norms, Prediction
from fedmerge.testtime.probe import FULL, Probe

COEFFICIENTS, NORMS, GUARD = Coefficients(temperature=0.3), Norms("stream", prior=1.0), Guard()


@TESTTIME.method(
    "stream-adaptive",
    title="Stream-adaptive merging",
    paper="ours, on The Mean is the Mirage, arXiv 2602.21372",
    needs=Needs(individual_models=True, unlabelled_batches=True),
    misfits={},
)
class StreamAdaptive(EntropyAdaptive):
    """Entropy-adaptive merging with the batch-norm statistics of the stream.

    :class:`EntropyAdaptive` with other defaults: norms of the stream, and a guard. The merged model's batch
    norms start from the merged statistics of the sources and learn those of the site, class by class by what
    the sources say, as far as the stream has shown more than one class (``stream_norms``): coefficients
    choose among the sources' scanners, statistics reach one that no source has. A network without batch norm
    is merged as the paper does, with the guard.

    All options are as :class:`EntropyAdaptive` has them. In a configuration a group that names some fields
    keeps these defaults in the others; in Python ``dataclasses.replace(NORMS, prior=16)`` does.

    M + 1 forward passes of an encoder a batch, none backward. The stream is carried from batch to batch until
    ``reset()``. Where the sources' statistics already fit, as those of pretrained networks may, learning
    hurts: a norms' prior of infinity learns nothing, and the hold-one-source-out tuner chooses between the
    two. Its defaults were chosen on development runs of three cohorts with one hospital that trained held out
    in turn, before the first look at a benchmark's targets.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        coefficients: Coefficients = COEFFICIENTS,
        norms: Norms = NORMS,
        probe: Probe = FULL,
        guard: Guard | None = GUARD,
        predict: Prediction = PREDICTION,
        batch_norm: MergedBatchNorm = "mixture",
        source_temperatures: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            models,
            coefficients=coefficients,
            norms=norms,
            probe=probe,
            guard=guard,
            predict=predict,
            batch_norm=batch_norm,
            source_temperatures=source_temperatures,
        )
