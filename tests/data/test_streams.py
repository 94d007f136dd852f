"""The orders in which images arrive, by their laws."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmerge.data import streams
from fedmerge.data.streams import StreamSpec
from tests.facts import refused

FORMS: list[Any] = [
    "iid",
    "temporal",
    {"dirichlet": 1e-5},
    {"dirichlet": 0.05},
    {"dirichlet": 1e5},
    {"note": 1e-5},
    {"note": 0.05},
    {"note": 1e5},
    {"recurring": 1},
    {"recurring": 4},
    {"recurring": 10**20},
    {"drift": "contrast"},
]


pairs = st.tuples(st.integers(0, 3), st.integers(-2, 6))


some_patients = st.lists(pairs, max_size=60).map(lambda rows: np.array(rows, dtype=np.int64).reshape(-1, 2).T)


some_labels = st.lists(st.integers(0, 6), max_size=60).map(lambda values: np.array(values, dtype=np.int64))


@settings(max_examples=60)
@given(
    labels=some_labels,
    form=st.sampled_from(FORMS),
    batch_size=st.integers(1, 30),
    seed=st.integers(0, 50),
)
def test_a_stream_holds_every_index_once(labels: np.ndarray, form: Any, batch_size: int, seed: int) -> None:
    spec = StreamSpec.model_validate(form)
    order = streams.order(spec, labels, batch_size, seed, "north")
    assert order.dtype == np.int64
    assert sorted(order) == list(range(len(labels)))
    pieces = list(streams.batches(order, batch_size))
    assert [len(p) for p in pieces[:-1]] == [batch_size] * (len(pieces) - 1)
    assert np.concatenate([order[:0], *pieces]).tolist() == order.tolist()
    assert np.array_equal(order, streams.order(spec, torch.from_numpy(labels), batch_size, seed, "north"))


@given(labels=some_labels, seed=st.integers(0, 50))
def test_a_temporal_stream_changes_class_once_per_class(labels: np.ndarray, seed: int) -> None:
    seen = labels[streams.temporal(labels, np.random.default_rng(seed))]
    assert np.count_nonzero(np.diff(seen)) == max(len(np.unique(labels)) - 1, 0)


def test_a_temporal_stream_shuffles_classes_and_their_samples() -> None:
    labels = np.repeat(np.arange(5), 20)
    orders = [streams.temporal(labels, np.random.default_rng(seed)) for seed in range(3)]
    assert len({tuple(labels[o][::20]) for o in orders}) > 1
    assert any(np.any(np.diff(o[:20]) < 0) for o in orders)


def runs(*columns: np.ndarray) -> list[Any]:
    """The rows of these columns without those that follow an equal one."""
    return [row for row, _ in groupby(zip(*(column.tolist() for column in columns), strict=True))]


@given(drawn=some_patients, seed=st.integers(0, 50))
def test_a_temporal_stream_goes_patient_by_patient_inside_a_class(drawn: np.ndarray, seed: int) -> None:
    """Each class, and each patient inside a class, is one run: as many runs as classes and as pairs."""
    labels, patients = drawn
    order = streams.temporal(labels, np.random.default_rng(seed), torch.from_numpy(patients))
    assert order.dtype == np.int64
    assert sorted(order) == list(range(len(labels)))
    assert len(runs(labels[order])) == len(np.unique(labels))
    assert len(runs(labels[order], patients[order])) == len(set(zip(*drawn.tolist(), strict=True)))


@settings(max_examples=60)
@given(drawn=some_patients, cycles=st.integers(1, 9), seed=st.integers(0, 50))
def test_a_recurring_stream_cuts_the_temporal_one_by_class(drawn: np.ndarray, cycles: int, seed: int) -> None:
    """With patients as without: inside a class, its samples come in the order of the temporal stream."""
    labels, patients = drawn
    once = streams.temporal(labels, np.random.default_rng(seed), patients)
    again = streams.recurring(labels, cycles, np.random.default_rng(seed), patients)
    for c in np.unique(labels):
        assert again[labels[again] == c].tolist() == once[labels[once] == c].tolist()


def test_patients_and_their_samples_are_shuffled_anew_in_each_class() -> None:
    """Two classes of 6 patients with 10 samples each."""
    labels, patients = np.repeat([0, 1], 60), np.tile(np.repeat(np.arange(6), 10), 2)
    order = streams.temporal(labels, np.random.default_rng(0), patients)
    first, second = order[:60], order[60:]
    assert patients[first][::10].tolist() != patients[second][::10].tolist()
    assert sorted(patients[first][::10]) == sorted(patients[second][::10]) == list(range(6))
    assert any(np.any(np.diff(order[start : start + 10]) < 0) for start in range(0, 120, 10))


@pytest.mark.parametrize("form", FORMS)
def test_only_what_goes_class_by_class_knows_patients(form: Any) -> None:
    labels, patients = np.arange(60) % 2, np.arange(60) % 7
    spec = StreamSpec.model_validate(form)
    with_, without = (streams.order(spec, labels, 10, 0, "north", known) for known in (patients, None))
    assert np.array_equal(with_, without) == (spec.kind not in ("temporal", "recurring"))


def test_a_temporal_stream_refuses_too_few_patients() -> None:
    with refused("label", 2, "shape"):
        streams.temporal(np.zeros(3), np.random.default_rng(0), np.zeros(2))


@settings(max_examples=60)
@given(labels=some_labels, cycles=st.integers(1, 9), seed=st.integers(0, 50))
def test_a_recurring_stream_goes_through_the_classes_in_one_order_in_every_round(
    labels: np.ndarray, cycles: int, seed: int
) -> None:
    """A class of n samples is in round r with floor(n / cycles) or one more of them. Cut after each round's
    counts, the stream is one segment a class, and all rounds follow the order of the classes of the first
    (each class has its sample 0 in round 0)."""
    seen = labels[streams.recurring(labels, cycles, np.random.default_rng(seed))].tolist()
    first = list(dict.fromkeys(seen))
    sizes = {c: seen.count(c) for c in first}
    cycles = min(cycles, len(seen))
    for r in range(cycles):
        counts = {c: sum(k * cycles // n == r for k in range(n)) for c, n in sizes.items()}
        assert all(n // cycles <= counts[c] <= -(-n // cycles) for c, n in sizes.items())
        round_, seen = seen[: sum(counts.values())], seen[sum(counts.values()) :]
        assert round_ == [c for c in first for _ in range(counts[c])]
    assert not seen


@given(labels=some_labels, seed=st.integers(0, 50))
def test_one_cycle_is_the_temporal_stream(labels: np.ndarray, seed: int) -> None:
    once = streams.recurring(labels, 1, np.random.default_rng(seed))
    assert np.array_equal(once, streams.temporal(labels, np.random.default_rng(seed)))


def test_classes_come_back_and_leave_again() -> None:
    """Four classes of 30 in 3 rounds: 12 segments of 10, a class again after the three others."""
    labels = np.repeat(np.arange(4), 30)
    seen = labels[streams.recurring(labels, 3, np.random.default_rng(0))]
    assert np.flatnonzero(np.diff(seen)).tolist() == [10 * k - 1 for k in range(1, 12)]
    assert np.array_equal(seen[:40], seen[40:80])
    assert np.array_equal(seen[:40], seen[80:])


def within_batch_variance(labels: np.ndarray, order: np.ndarray, size: int) -> float:
    return float(np.mean([np.var(labels[batch]) for batch in streams.batches(order, size)]))


def test_delta_to_infinity_is_close_to_iid_and_delta_to_zero_to_one_class_a_slot() -> None:
    """640 samples of two classes, batches of 64. Every slot gets half of each for infinite delta: variance
    1/4. For delta to 0 each class lies whole in one slot, so at most one batch is mixed: at most 1/40."""
    labels = np.repeat([0, 1], 320)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        even = streams.dirichlet(labels, 1e9, 10, rng)
        assert within_batch_variance(labels, even, 64) == pytest.approx(0.25, abs=1e-3)
        bursts = streams.dirichlet(labels, 1e-9, 10, rng)
        assert within_batch_variance(labels, bursts, 64) <= 0.025 + 1e-9


def test_skew_rises_as_delta_falls() -> None:
    """Class variance inside a batch, averaged over seeds, is ordered: temporal < 0.05 < 0.5 < iid."""
    labels = np.repeat(np.arange(4), 100)

    def mean(form: Any) -> float:
        spec = StreamSpec.model_validate(form)
        orders = [streams.order(spec, labels, 20, seed, "") for seed in range(20)]
        return float(np.mean([within_batch_variance(labels, o, 20) for o in orders]))

    values = [mean(form) for form in ("temporal", {"dirichlet": 0.05}, {"dirichlet": 0.5}, "iid")]
    assert values == sorted(values)


def test_streams_differ_by_seed_site_and_kind() -> None:
    labels = np.arange(50) % 2
    iid, slow = StreamSpec(kind="iid"), StreamSpec(kind="dirichlet", delta=1.0)
    orders = [(iid, 0, "a"), (iid, 1, "a"), (iid, 0, "b"), (slow, 0, "a")]
    assert len({tuple(streams.order(spec, labels, 10, seed, site)) for spec, seed, site in orders}) == 4


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan"), float("inf")])
def test_dirichlet_laws_refuse_nonsense(delta: float) -> None:
    with refused(0, "delta", "Dirichlet"):
        streams.dirichlet(np.zeros(3), delta, 2, np.random.default_rng(0))
    with refused(0, "delta", "NOTE"):
        streams.note(np.zeros(3), delta, np.random.default_rng(0))


def test_a_recurring_stream_refuses_no_cycles() -> None:
    with refused(0, "cycles"):
        streams.recurring(np.zeros(3), 0, np.random.default_rng(0))


ORDERS = {
    "iid": lambda labels: streams.iid(labels, np.random.default_rng(0)),
    "dirichlet": lambda labels: streams.dirichlet(labels, 0.1, 3, np.random.default_rng(0)),
    "note": lambda labels: streams.note(labels, 0.1, np.random.default_rng(0)),
    "temporal": lambda labels: streams.temporal(labels, np.random.default_rng(0)),
    "recurring": lambda labels: streams.recurring(labels, 2, np.random.default_rng(0)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_holds_every_image_or_a_sentence_says_why_not(name: str) -> None:
    """Of N x F labels it would hold N F indices, and images whose class is NaN would be in none."""
    with refused("(4, 3)", "one class an image"):
        ORDERS[name](np.eye(4, 3, dtype=np.int64))
    with refused("NaN", "class"):
        ORDERS[name](np.array([0.0, np.nan, 1.0]))
    assert sorted(ORDERS[name](torch.tensor([2, 0, 2, 1]))) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [0, -1, 2.5, float("nan")])
def test_batches_are_of_a_whole_number_of_images(size: float) -> None:
    with refused("batches", size):
        list(streams.batches(np.arange(5), size))  # type: ignore[arg-type]
    with refused("batches", size):
        streams.order(StreamSpec(kind="iid"), np.zeros(5), size, 0, "north")  # type: ignore[arg-type]
