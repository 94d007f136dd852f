from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fedmerge.data import streams
from fedmerge.data.streams import StreamSpec
from fedmerge.errors import FedMergeError
from fedmerge.validation import validate

some_labels = st.lists(st.integers(0, 6), max_size=60).map(lambda values: np.array(values, dtype=np.int64))


@settings(max_examples=60, deadline=None)
@given(
    labels=some_labels,
    form=st.sampled_from(["iid", "temporal", {"dirichlet": 1e-5}, {"dirichlet": 0.05}, {"dirichlet": 1e5}]),
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


def test_names_and_forms() -> None:
    forms: list[Any] = ["iid", "temporal", {"dirichlet": 0.05}, {"kind": "dirichlet", "delta": 2}]
    specs = [StreamSpec.model_validate(form) for form in forms]
    assert [s.name for s in specs] == ["iid", "temporal", "dirichlet-0.05", "dirichlet-2"]
    assert [StreamSpec.model_validate(s.model_dump()) for s in specs] == specs


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("tempral", "Did you mean 'temporal'"),
        ("dirichlet", "dirichlet: 0.05"),
        ({"iid": 3}, "'iid' given 3"),
        ({"dirichlet": -1}, "greater than 0"),
        ({"dirichlet": 0.1, "temporal": 1}, "a stream is one of"),
    ],
)
def test_a_wrong_form_is_a_sentence(form: Any, words: str) -> None:
    class Bench(BaseModel):
        streams: list[StreamSpec]

    with pytest.raises(FedMergeError, match=words) as caught:
        validate(Bench, {"streams": ["iid", form]}, "bench.yaml")
    assert str(caught.value).startswith("bench.yaml: ")
    assert "streams[1]" in str(caught.value)


def test_a_dirichlet_stream_refuses_nonsense() -> None:
    with pytest.raises(FedMergeError, match="delta > 0"):
        streams.dirichlet(np.zeros(3), 0.0, 2, np.random.default_rng(0))
