"""The results of a node's steps on a batch, and the trace made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.testtime.answers import spread
from fedmerge.testtime.contract import Trace


@dataclass
class Scored:
    """The results of the last scoring. finite: int64, A of M sources; own, heads: their scores, A or A x n.

    alphas: A coefficients for each group of the encoder. uniform: whether the sources agreed, so that all
    coefficients are alike. predictions: the merged model's mean probabilities then.
    """

    finite: Tensor
    own: Tensor
    heads: Tensor
    alphas: list[Tensor]
    predictions: Tensor | None = None
    uniform: bool = False

    @property
    def alpha(self) -> Tensor:
        """The encoder's coefficients, over several groups their means."""
        return self.alphas[0] if len(self.alphas) == 1 else torch.stack(self.alphas).mean(dim=0)

    def state(self) -> dict[str, Tensor]:
        """All of it by name, as a state dict holds it."""
        found = {
            "finite": self.finite,
            "own": self.own,
            "heads": self.heads,
            "alphas": torch.stack(self.alphas),
            "uniform": torch.tensor(self.uniform),
        }
        return found if self.predictions is None else found | {"predictions": self.predictions}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Scored:
        """The inverse of :meth:`state`."""
        alphas = list(state["alphas"].unbind())
        own, heads, uniform = state["own"], state["heads"], bool(state["uniform"])
        return cls(state["finite"], own, heads, alphas, state.get("predictions"), uniform)


@dataclass(frozen=True)
class Headed:
    """The merged model's logits on a batch, N x C, the head's coefficients, A, and its scores where asked."""

    logits: Tensor
    beta: Tensor
    scores: Tensor | None


def trace_of(
    scored: Scored, headed: Headed, logits: Tensor, sources: int, asked: bool, fallback: tuple[str, ...]
) -> Trace:
    """The trace of a batch, read back from the device at once, after all work on it has been queued.

    logits: what the node answers, N x C. sources: M. asked: whether the sources were scored on this batch.
    fallback: what the guard found. Raises FedMergeError for logits that are not finite.
    """
    finite = scored.finite
    own = _of_batch(scored.own)
    heads = None if headed.scores is None else _of_batch(headed.scores)
    rows = [spread(row, finite, sources, 0.0) for row in (*scored.alphas, scored.alpha, headed.beta)]
    rows += [spread(row, finite, sources, float("nan")) for row in (own, own if heads is None else heads)]
    rows.append(logits.isfinite().all().to(rows[0]).expand(sources))
    *blocks, encoder, head, source, merged, all_finite = torch.stack(rows).tolist()
    if not all_finite[0]:
        raise FedMergeError(
            "the merged model gives logits that are not finite on this batch; check the batch's "
            "normalisation, or reset() where batch-norm statistics were learned from a broken stream."
        )
    present = set(finite.tolist()) if len(finite) < sources else range(sources)
    return Trace(
        tuple(encoder),
        tuple(head),
        tuple(source),
        None if heads is None else tuple(merged),
        len(logits),
        blocks=tuple(tuple(block) for block in blocks) if len(blocks) > 1 else None,
        left_out=tuple(index for index in range(sources) if index not in present),
        scored=asked,
        fallback=fallback,
    )


def _of_batch(scores: Tensor) -> Tensor:
    """Scores A, from those by image, A x n, their means."""
    return scores.mean(dim=1) if scores.ndim > 1 else scores
