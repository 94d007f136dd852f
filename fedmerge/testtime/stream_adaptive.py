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
from fedmerge.testtime.probe import Probe

COEFFICIENTS, GUARD = Coefficients(temperature=0.3), Guard()
NORMS, PROBE = Norms("stream", prior=64.0, learn="all"), Probe(images=8)
AS_THEY_ARE = Norms("sources")


@TESTTIME.method(
    "stream-adaptive",
    title="Stream-adaptive merging",
    paper="ours, on The Mean is the Mirage, arXiv 2602.21372",
    needs=Needs(individual_models=True, unlabelled_batches=True),
    misfits={},
)
class StreamAdaptive(EntropyAdaptive):
    """Entropy-adaptive merging with the batch-norm statistics of the stream.

    :class:`EntropyAdaptive` with other defaults: norms of the stream, sources that are asked about 8 images
    of a batch, and a guard. The merged model's batch norms start from the merged statistics of the sources
    and learn those of the site, class by class by what the sources and the merged model say, as far as the
    stream has shown more than one class (``stream_norms``): coefficients choose among the sources' scanners,
    statistics reach one that no source has. A network without batch norm is merged as the paper does, with
    the probe and the guard.

    All options are as :class:`EntropyAdaptive` has them. In a configuration a group that names some fields
    keeps these defaults in the others; in Python ``dataclasses.replace(NORMS, prior=16)`` does.

    1 + 8 M / N forward passes of an encoder for a batch of N images, none backward; M + 1 with 8 images and
    fewer. The stream is carried from batch to batch until ``reset()``. Where the sources' statistics already
    fit, learning hurts: networks that began from pretrained weights lost by it on five of six cohorts (on the
    sixth all is near chance: ``docs/studies/test-time.md``), and hospitals held out in turn did not foresee
    that. So it depends on:

    pretrained: whether the networks began from pretrained weights; in an experiment, and in a service, their
    cards say so. Then, where ``norms`` is not given, the merged statistics of the sources stay as they are.
    What it was before: prior 1, learned from the images asked about, which were all
    (``Norms("stream", 1.0)``, ``Probe()``).
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        coefficients: Coefficients = COEFFICIENTS,
        norms: Norms = NORMS,
        probe: Probe = PROBE,
        guard: Guard | None = GUARD,
        predict: Prediction = PREDICTION,
        batch_norm: MergedBatchNorm = "mixture",
        source_temperatures: Sequence[float] | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__(
            models,
            coefficients=coefficients,
            norms=AS_THEY_ARE if pretrained and norms is NORMS else norms,
            probe=probe,
            guard=guard,
            predict=predict,
            batch_norm=batch_norm,
            source_temperatures=source_temperatures,
        )
