"""NOTE's stream and our Dirichlet one, by their definitions."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmerge.data import streams

some_labels = st.lists(st.integers(0, 6), max_size=60).map(lambda values: np.array(values, dtype=np.int64))


def label_entropy(labels: np.ndarray, order: np.ndarray, size: int) -> float:
    """The mean over batches of H(classes in the batch) / log C."""
    classes, found = len(np.unique(labels)), []
    for batch in streams.batches(order, size):
        p = np.bincount(labels[batch]) / len(batch)
        found.append(-np.sum(p[p > 0] * np.log(p[p > 0])))
    return float(np.mean(found) / np.log(classes))


def by_note(labels: np.ndarray, delta: float, rng: np.random.Generator) -> np.ndarray:
    """NOTE's definition once more: q masked where a chunk is full, scaled, cut; drawn until none is small."""
    n = int(labels.max()) + 1
    sizes = np.zeros(n)
    while sizes.min() < 10:
        chunks, sizes = np.empty((n, n), dtype=object), np.zeros(n)
        for c in range(n):
            q = rng.dirichlet(np.full(n, delta)) * (sizes < len(labels) / n)
            cuts = np.floor(np.cumsum(q / q.sum())[:-1] * np.sum(labels == c) + 1e-9).astype(int)
            chunks[:, c] = np.split(rng.permutation(np.flatnonzero(labels == c)), cuts)
            sizes += [len(piece) for piece in chunks[:, c]]
    return np.concatenate([chunk[c] for chunk in chunks for c in rng.permutation(n)])


def by_slots(labels: np.ndarray, delta: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Our Dirichlet stream once more: a slot a batch, each class by multinomial counts, slots shuffled."""
    slots = -(-len(labels) // size)
    of = np.empty(len(labels), dtype=int)
    for c in np.unique(labels):
        of[labels == c] = rng.choice(slots, np.sum(labels == c), p=rng.dirichlet(np.full(slots, delta)))
    return np.lexsort((rng.random(len(labels)), of))


def test_the_label_entropy_of_a_batch_is_that_of_the_definitions() -> None:
    """Ten classes of 100, batches of 64. NOTE's stream mixes about half as much as ours at the same delta.

    120 streams each: the means of two samples of one law are within 5 standard errors of their difference,
    for ours 0.01 more, because it rounds counts where the other draws them.
    """
    labels, size, delta = np.repeat(np.arange(10), 100), 64, 0.05

    def sample(stream: Any) -> tuple[float, float]:
        found = [label_entropy(labels, stream(np.random.default_rng(seed)), size) for seed in range(120)]
        return float(np.mean(found)), float(np.var(found) / len(found))

    (note, a), (note_again, b) = (
        sample(lambda rng: streams.note(labels, delta, rng)),
        sample(lambda rng: by_note(labels, delta, rng)),
    )
    (ours, c), (ours_again, d) = (
        sample(lambda rng: streams.dirichlet(labels, delta, 16, rng)),
        sample(lambda rng: by_slots(labels, delta, size, rng)),
    )
    assert abs(note - note_again) < 5 * (a + b) ** 0.5
    assert abs(ours - ours_again) < 5 * (c + d) ** 0.5 + 0.01
    assert note < 0.6 * ours


def test_note_in_its_limits() -> None:
    """Four classes of 64. Delta to 0: a class is one run, as in the temporal stream. Delta to infinity: four
    chunks of 16 +- 1 of each class, so 16 runs, or one less where a run goes on in the next chunk."""
    labels = np.repeat(np.arange(4), 64)
    for seed in range(5):
        seen = labels[streams.note(labels, 1e-9, np.random.default_rng(seed))]
        assert np.count_nonzero(np.diff(seen)) == 3
        order = streams.note(labels, 1e9, np.random.default_rng(seed))
        for chunk in np.split(labels[order], 4):
            assert np.bincount(chunk, minlength=4) == pytest.approx([16] * 4, abs=4)
        ends = np.flatnonzero(np.diff(labels[order])) + 1
        assert 12 <= len(ends) <= 15
        lengths = np.diff([0, *ends, 256])
        assert all(min(abs(length - 16), abs(length - 32)) <= 2 for length in lengths)


@settings(max_examples=40)
@given(labels=some_labels, delta=st.sampled_from([1e-5, 0.05, 1.0, 1e5]), seed=st.integers(0, 50))
def test_note_has_at_most_a_run_for_each_class_and_chunk(labels: np.ndarray, delta: float, seed: int) -> None:
    """Also where no draw can give every chunk ten samples; labels need not be numbered without gaps."""
    order = streams.note(labels * 3 - 1, delta, np.random.default_rng(seed))
    assert order.dtype == np.int64
    assert sorted(order) == list(range(len(labels)))
    assert len([*groupby(labels[order])]) <= len(np.unique(labels)) ** 2


def test_note_shuffles_inside_a_run_and_between_seeds() -> None:
    labels = np.repeat(np.arange(3), 40)
    orders = [streams.note(labels, 1e-9, np.random.default_rng(seed)) for seed in range(6)]
    assert len({tuple(labels[order][::40]) for order in orders}) > 1
    assert all(np.any(np.diff(order[:40]) < 0) for order in orders)


def test_note_draws_again_until_no_chunk_is_small() -> None:
    """Two classes of 30: some draws leave a chunk below 10; a stream is the first draw that does not."""
    labels = np.repeat([0, 1], 30)
    drawn = [streams._chunks(labels, 2, 0.05, np.random.default_rng(seed)) for seed in range(200)]
    small = [min(len(first) + len(second) for first, second in chunks) < 10 for chunks in drawn]
    assert 0.05 < np.mean(small) < 0.5
    for seed in range(50):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        order = streams.note(labels, 0.05, rng)
        while True:
            chunks = streams._chunks(labels, 2, 0.05, again)
            if min(len(first) + len(second) for first, second in chunks) >= 10:
                break
        first = len(chunks[0][0]) + len(chunks[0][1])
        assert sorted(order[:first]) == sorted(np.concatenate(chunks[0]))
