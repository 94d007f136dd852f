"""The interface of every test-time method: it sees one unlabelled batch after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Trace:
    """Why one batch was predicted as it was. M sources; entropies are divided by log C, so within [0, 1].

    encoder: M coefficients of the encoder, summing to one; with several blocks their means over blocks.
    head: M coefficients of the head, summing to one; by class, their means over classes.
    source_entropies: M scores, each source model on the batch: its mean entropy or another statistic; NaN for
        a source left out.
    head_entropies: M scores, each source head on the merged encoder's features; None where the heads were
        not scored.
    batch_size: images in the batch.
    blocks: the coefficients of each block of the encoder, in the order they run; None for one block.
    left_out: sources whose outputs on this batch were not finite; their coefficients are 0.
    scored: whether the sources were scored on this batch, or its coefficients are an earlier one's.
    fallback: why the guard answered with its reference in place of the merged model; empty where it did not.
    """

    encoder: tuple[float, ...]
    head: tuple[float, ...]
    source_entropies: tuple[float, ...]
    head_entropies: tuple[float, ...] | None
    batch_size: int
    blocks: tuple[tuple[float, ...], ...] | None = None
    left_out: tuple[int, ...] = ()
    scored: bool = True
    fallback: tuple[str, ...] = ()


@runtime_checkable
class Node(Protocol):
    """A deployed model at a site without labels. It never sees a label and needs no gradient from outside.

    forward_passes: passes of one model's encoder over one batch, since the last ``reset()``; a pass over some
        of its images, or over smaller ones, counts as its share.
    backward_passes: likewise; 0 for methods without gradients.
    order_free: optional, False where a node does not have it. True says that it answers each image by itself
        and keeps nothing, so that an image has the same logits in every batch and in every order, and a batch
        costs the same passes: it may be asked once for all orders of the same images.
    """

    forward_passes: float
    backward_passes: float

    def observe(self, batch: Tensor) -> tuple[Tensor, Trace | None]:
        """Return the logits N x C of a batch N x C x H x W, as the models take it, and the trace, if any."""
        ...

    def reset(self) -> None:
        """Forget the stream: the next batch is met as the first one was."""
        ...
