"""The merged network of a node, made anew for every batch, and the sources it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.copies import unwrapped
from fedmerge.models.entries import entries
from fedmerge.models.flat import FlatModels, MergedBatchNorm
from fedmerge.models.heads import apply_head, check_head, features_and_logits, find_head
from fedmerge.models.outputs import logits_of
from fedmerge.models.plain import plain
from fedmerge.models.state import State, without_wrappers
from fedmerge.models.wide import wide
from fedmerge.testtime.batch import taking
from fedmerge.testtime.blocks import Granularity, grouping
from fedmerge.testtime.norms import use_batch_statistics
from fedmerge.testtime.options import Anchor, Norms
from fedmerge.testtime.originals import agreeing
from fedmerge.testtime.passes import Passes
from fedmerge.testtime.stream_norms import Stream, use_stream_norms


class MergedModel(nn.Module):
    """M sources and their merge, group by group: the blocks of the encoder, and the head.

        group g = anchor_g + s (sum_i alpha_i source_i,g - anchor_g)

    models: copied. batch_norm: merged variances of the ``"mixture"`` of moments, or their ``"average"``.
    norms: see ``Norms``.
    scale: s, on weights; running statistics are merged without it. anchor: a model, its state, or the
    ``"mean"`` of the sources. head_module: None: found on the first batch. passes: how passes are made.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        batch_norm: MergedBatchNorm,
        granularity: Granularity,
        norms: Norms,
        scale: float,
        anchor: Anchor,
        head_module: str | None,
        passes: Passes,
    ) -> None:
        super().__init__()
        self.granularity, self.scale = granularity, scale
        self.head_module, self.passes = head_module, passes
        self.sources = FlatModels(models, models[0], batch_norm=batch_norm)
        if passes.precision == "bfloat16" and any(
            each.dtype != torch.float32 for each in self.sources.layouts
        ):
            raise FedMergeError(
                "precision bfloat16 is for models of float32; these are of another dtype, which they keep: "
                "leave precision out, or convert the models to float32."
            )
        if isinstance(anchor, nn.Module):
            agreeing([models[0], unwrapped(anchor)], ("models[0]", "anchor"))
        self.anchor = self.sources.row_of(_state(self.sources.merged if anchor == "mean" else anchor))
        self.stream = Stream(norms.prior, norms.by_class)
        self.learns_all = norms.statistics == "stream" and norms.learn == "all"
        if norms.statistics == "batch":
            self.sources.change_merged(use_batch_statistics)
        elif norms.statistics == "stream":
            self.sources.change_merged(lambda model: use_stream_norms(model, self.stream))
        self.groups: list[str] = []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MergedModel:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.anchor = [fn(row) for row in self.anchor]
        self.stream.move(fn)
        self.passes.forget()
        return self

    @property
    def head(self) -> str:
        """The name of the classification head, known after ``prepare``."""
        assert self.head_module is not None
        return self.head_module

    def prepare(self, batch: Tensor) -> None:
        """Find or check the head on the first batch, and part the encoder into its groups."""
        if self.groups:
            return
        first, example = self.sources.model(0), batch[:2]
        with taking(batch, "models[0]"):
            if self.head_module is None:
                self.head_module = find_head(first, example)
            else:
                check_head(first, self.head_module, example)
            self.sources.split(self.head_module)
            groups, group = grouping(first, self.head_module, self.granularity, example)
        self.sources.part(group)
        self.groups = groups

    def merge(self, group: str, alpha: Tensor, among: Tensor) -> None:
        """Merge one group of the sources ``among``, int64 indices, with a weight each."""
        everyone = len(among) == len(self.sources)
        self.sources.merge(group, alpha, None if everyone else among)
        if self.scale != 1:
            self.sources.move_from(self.anchor, group, self.scale)

    def features(self, batch: Tensor, q: Tensor | None = None, chosen: Tensor | None = None) -> Tensor:
        """Return the merged encoder's features; norms that learn from the stream learn from this pass.

        q: class probabilities of the images, n x C, of the ``chosen`` ones or all; None: nothing is learned.
        """

        def encode(images: Tensor, *learning: Tensor) -> tuple[Tensor, ...]:
            with taking(images, "the merged model"), self.stream.learning(*learning, noting=self.learns_all):
                features = features_and_logits(self.sources.merged_model, self.head, images)[0]
            return (features, *self.stream.noted_moments())

        given = [value for value in (batch, q, chosen) if value is not None]
        features, *noted = self.passes(f"encoder of {len(given)}", encode, *given)
        self.stream.note(noted)
        return features

    def learn_others(self, p: Tensor, asked: bool, chosen: Tensor | None) -> None:
        """Let the norms learn from the images that the last ``features`` did not learn from, where they do.

        p: class probabilities of all images, n x C. asked, chosen: as the sources were asked.
        """
        if self.learns_all and not (asked and chosen is None):
            self.stream.learn_others(p, chosen if asked else None)

    def predict(self, images: Tensor) -> Tensor:
        """The merged model's logits, N x C, float32 or wider; nothing learned."""

        def whole(batch: Tensor) -> tuple[Tensor]:
            with taking(batch, "the merged model"):
                return (wide(logits_of(self.sources.merged_model(batch)).flatten(1)),)

        return self.passes("merged", whole, images)[0].clone()

    def answer(self, features: Tensor) -> Tensor:
        """The merged head's logits, N x C."""
        return wide(apply_head(self.sources.merged_model, self.head, features))

    def heads(self, features: Tensor, among: Tensor) -> Tensor:
        """Return the logits that heads of the sources ``among`` give for the same features: A x N x C."""
        models = [self.sources.model(index) for index in among.tolist()]
        return torch.stack([wide(apply_head(model, self.head, features)) for model in models])


def _state(anchor: Anchor) -> State:
    """Return the state of an anchor in the form of the sources' states."""
    if isinstance(anchor, str):
        raise FedMergeError(
            f"the anchor '{anchor}' is a name that an experiment knows: give the model itself, or its state."
        )
    if isinstance(anchor, nn.Module):
        return entries(plain(unwrapped(anchor)))
    return without_wrappers(anchor)
