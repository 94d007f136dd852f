"""The options of entropy-adaptive merging, in the groups in which a configuration shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.schema.typed import check_types
from fedmerge.testtime.blocks import Granularity
from fedmerge.testtime.entropy import check_temperature
from fedmerge.testtime.passes import Precision
from fedmerge.testtime.scoring import INSIDE, Statistic
from fedmerge.testtime.weighting import EncoderRule, HeadRule, MemoryOf, Order, check_word

Teacher = Literal["asked", "all"]
"""From which images norms learn: those about which the sources were ``asked``; ``all``."""
NormStatistics = Literal["sources", "batch", "stream"]
"""Whose batch-norm statistics: merged from the ``sources``; of the ``batch``; learned from the ``stream``."""
Answering = Literal["merged", "together"]
"""Who answers: the ``merged`` model, or it ``together`` with the sources that were asked anyway."""
Anchor = nn.Module | Mapping[str, Tensor] | Literal["mean", "federated"]
"""From where a merge is scaled: a model, its state, the mean of the sources, or the model of the rounds."""


@dataclass(frozen=True)
class Coefficients:
    """How scores become coefficients, alpha of the encoder and beta of the head.

    temperature: T > 0; infinity is mean merging, towards 0 the surest model alone. head_temperature: T_head;
        T where not given.
    statistic: what a low score is (``scoring``; the two from inside the sources: ``source_fit``). order:
        ``"batch"``: softmax of the mean score; ``"image"``: the mean over images of softmax(-score of the
        image / T). normalised: whether entropies are divided by log C; else in nats.
    encoder, head: how they are scored (``weighting``). granularity: one alpha for the ``"whole"`` encoder, or
        for every ``"block"`` or ``"layer"`` of it, which costs M more passes for each (``blocks``).
    memory: beta of a moving average over batches of the ``memory_of`` ``"coefficients"`` or ``"scores"``.
    agreement: kappa, at most 1. Coefficients are used where Fleiss' kappa of the classes that the sources say
        is at most this, else the mean: 0 where they disagree more than by chance, 1 always (``source_fit``).
    """

    temperature: float = 0.1
    head_temperature: float | None = None
    statistic: Statistic = "entropy"
    order: Order = "batch"
    normalised: bool = True
    encoder: EncoderRule = "own"
    head: HeadRule = "merged-features"
    granularity: Granularity = "whole"
    memory: float = 0.0
    memory_of: MemoryOf = "coefficients"
    agreement: float = 1.0

    def __post_init__(self) -> None:
        check_word("encoder coefficients", self.encoder, EncoderRule)
        check_word("head coefficients", self.head, HeadRule)
        check_word("granularity", self.granularity, Granularity)
        check_types(self)
        check_temperature(self.temperature)
        check_temperature(self.of_head, "head_temperature")
        if self.statistic in INSIDE and (
            (self.head, self.encoder, self.order, self.granularity) != ("shared", "own", "batch", "whole")
        ):
            raise FedMergeError(
                f"statistic '{self.statistic}' scores whole encoders by batch, and no head: set head to "
                "shared, and leave encoder, order and granularity as they are."
            )
        if not self.agreement <= 1:
            raise FedMergeError(f"agreement is {self.agreement}; it is a kappa, at most 1 (always merge).")

    @property
    def of_head(self) -> float:
        """T_head."""
        return self.temperature if self.head_temperature is None else self.head_temperature


@dataclass(frozen=True)
class Norms:
    """Whose batch-norm statistics the merged model uses.

    statistics: merged from the ``"sources"``, of the ``"batch"``, or learned from the ``"stream"``
        (``stream_norms``). prior: for how many images the sources' statistics count beside the stream's;
        infinity learns nothing. by_class: whether the stream's moments are kept class by class and averaged
        over classes; else over all images alike.
    learn: the stream's are learned from the images about which the sources are ``"asked"`` (``Probe``), by
        what they say; or from ``"all"``: from the others after the answer, by what the merged model says of
        them, which costs no pass.
    """

    statistics: NormStatistics = "sources"
    prior: float = 16.0
    by_class: bool = True
    learn: Teacher = "asked"

    def __post_init__(self) -> None:
        check_word("batch-norm statistics", self.statistics, NormStatistics)
        check_word("images to learn norms from", self.learn, Teacher)
        check_types(self)
        if not self.prior > 0:
            raise FedMergeError(f"the norms' prior is {self.prior}; it must be a number of images above 0.")


@dataclass(frozen=True)
class Prediction:
    """Who answers, and how the merged network is made and run.

    answer: the ``"merged"`` model alone, or the mean of its probabilities ``"together"`` with those of the
        alpha-weighted sources, on the images they were asked about.
    scale: s in anchor + s (merged - anchor), for weights; below 1 it draws back to the anchor: a model, its
        state, the ``"mean"`` of the sources, or in an experiment the ``"federated"`` model of the rounds.
    head_module: name of the classification head; found on the first batch where not given.
    history: how many traces are kept, the latest; None: all.
    precision: of the arithmetic inside float32 networks; networks of another dtype keep it, and ``"float32"``
        says no more. Logits, scores, coefficients and merged sums are float32 or wider.
    graphs: whether passes on a CUDA device are recorded as CUDA graphs, the sources side by side
        (``passes``); no effect on numbers.
    """

    answer: Answering = "merged"
    scale: float = 1.0
    anchor: Anchor = "mean"
    head_module: str | None = None
    history: int | None = 1000
    precision: Precision = "float32"
    graphs: bool = True

    def __post_init__(self) -> None:
        check_word("predictor", self.answer, Answering)
        check_word("precision", self.precision, Precision)
        if isinstance(self.anchor, str):
            check_word("anchor", self.anchor, Literal["mean", "federated"])
        check_types(self)
        if self.history is not None and self.history < 0:
            raise FedMergeError(f"history is {self.history}; it must be a number of traces, or None for all.")
