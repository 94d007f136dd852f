"""What every test-time method is: something that sees one unlabelled batch after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Trace:
    """Why one batch was predicted as it was. M sources; entropies are divided by log C, so within [0, 1].

    encoder: M coefficients of the encoder, summing to one.
    head: M coefficients of the head, summing to one.
    source_entropies: M mean sample entropies, each source model on the batch.
    head_entropies: M mean sample entropies, each source head on the merged encoder's features; None where
        the heads were not scored.
    batch_size: images in the batch.
    """

    encoder: tuple[float, ...]
    head: tuple[float, ...]
    source_entropies: tuple[float, ...]
    head_entropies: tuple[float, ...] | None
    batch_size: int


@runtime_checkable
class Node(Protocol):
    """A deployed model at a site without labels. It never sees a label and needs no gradient from outside.

    forward_passes: passes of one model's encoder over one batch, since the last ``reset()``.
    backward_passes: likewise; 0 for methods without gradients.
    order_free: optional, False where a node does not have it. True says that it answers each image by itself
        and keeps nothing, so that an image has the same logits in every batch and in every order, and a batch
        costs the same passes: it may be asked once for all orders of the same images.
    """

    forward_passes: int
    backward_passes: int

    def observe(self, batch: Tensor) -> tuple[Tensor, Trace | None]:
        """Return the logits N x C of a batch N x C x H x W, as the models take it, and why (where known)."""
        ...

    def reset(self) -> None:
        """Forget the stream: the next batch is met as the first one was."""
        ...
