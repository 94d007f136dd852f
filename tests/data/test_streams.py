from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fedmerge.data import scanner, streams
from fedmerge.data.scanner import Appearance
from fedmerge.data.shown import drifted
from fedmerge.data.streams import StreamSpec
from fedmerge.schema.validation import validate
from fedmerge.seeding import generator
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


@given(n=st.integers(0, 200))
def test_a_drift_rises_and_falls_in_equal_stretches(n: int) -> None:
    """Nine stretches of n // 9 or one more; where all nine have an image, each step is one severity."""
    severities = streams.severities(n)
    assert severities.shape == (n,)
    assert severities.dtype == np.int64
    stretches = [np.count_nonzero(np.arange(n) * 9 // max(n, 1) == k) for k in range(9)]
    assert all(n // 9 <= length <= -(-n // 9) for length in stretches)
    assert severities.tolist() == np.repeat([1, 2, 3, 4, 5, 4, 3, 2, 1], stretches).tolist()


def test_a_drifting_scanner_shows_each_image_at_the_severity_of_its_place() -> None:
    """27 images, three a stretch. Contrast keeps an image's own mean m and scales what it differs from it by
    1 - 0.14 s; half black and half white at mean 127.5 it shows 127.5 +- 127.5 (1 - 0.14 s), rounded."""
    images = torch.zeros(27, 1, 4, 4, dtype=torch.uint8)
    images[:, :, :2] = 255
    order = np.random.default_rng(0).permutation(27)
    seen = drifted(images, order, "contrast", 0, "north")
    spread = (seen.amax((1, 2, 3)).int() - seen.amin((1, 2, 3)).int())[torch.from_numpy(order)]
    expected = [255 * (1 - 0.14 * s) for s in (1, 2, 3, 4, 5, 4, 3, 2, 1) for _ in range(3)]
    assert spread.tolist() == pytest.approx(expected, abs=1)
    assert images.unique().tolist() == [0, 255]


@pytest.mark.parametrize("shift", ["noise", "bias-field", "brightness"])
def test_a_drift_is_one_scanner_and_repeats(shift: str) -> None:
    """The same seed and site give the same bits, those of the site's scanner at each image's severity."""
    images = torch.randint(0, 256, (20, 3, 8, 8), generator=generator(0, "drift test"), dtype=torch.uint8)
    order = np.random.default_rng(1).permutation(20)
    seen = drifted(images, order, shift, 3, "north")
    assert torch.equal(seen, drifted(images, order, shift, 3, "north"))
    for place, severity in zip(order, streams.severities(20), strict=True):
        look = [Appearance(kind=shift, severity=int(severity))]
        assert torch.equal(seen[place], scanner.apply(images, look, 3, "north")[place])
    others = [drifted(images, order, shift, seed, site) for seed in range(9) for site in ("a", "b")]
    assert any(not torch.equal(seen, other) for other in others)


def test_a_drift_of_no_images_is_empty() -> None:
    images = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
    assert drifted(images, np.empty(0, dtype=np.int64), "blur", 0, "north").shape == images.shape


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
    assert len(runs(labels[order])) <= len(np.unique(labels)) ** 2


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


def test_streams_differ_by_seed_site_and_kind() -> None:
    labels = np.arange(50) % 2
    iid, slow = StreamSpec(kind="iid"), StreamSpec(kind="dirichlet", delta=1.0)
    orders = [(iid, 0, "a"), (iid, 1, "a"), (iid, 0, "b"), (slow, 0, "a")]
    assert len({tuple(streams.order(spec, labels, 10, seed, site)) for spec, seed, site in orders}) == 4


def test_names_and_forms() -> None:
    forms: list[Any] = ["iid", "temporal", {"dirichlet": 0.05}, {"kind": "dirichlet", "delta": 2}]
    forms += [{"recurring": 3}, {"drift": "bias-field"}, {"note": 0.1}]
    specs = [StreamSpec.model_validate(form) for form in forms]
    names = ["iid", "temporal", "dirichlet-0.05", "dirichlet-2", "recurring-3", "drift-bias-field"]
    names += ["note-0.1"]
    assert [s.name for s in specs] == names
    assert [StreamSpec.model_validate(s.model_dump()) for s in specs] == specs


def test_the_guide_lists_every_kind() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z]+)(?:: [\w.-]+)?` \|", guide, re.MULTILINE)
    assert set(streams.KINDS) <= set(listed)
    assert all(kind in streams.FORMS for kind in streams.KINDS)


def test_a_stream_is_written_with_no_field_that_others_take() -> None:
    """So that what a saved study stands on keeps its name when there is another kind of stream."""
    assert StreamSpec(kind="iid").model_dump(mode="json") == {"kind": "iid", "delta": None}
    assert StreamSpec(kind="recurring", cycles=3).model_dump() == {
        "kind": "recurring",
        "delta": None,
        "cycles": 3,
    }


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("tempral", ("temporal", "bench.yaml", "streams[1]")),
        ("dirichlet", ("dirichlet: 0.05", "bench.yaml", "streams[1]")),
        ({"iid": 3}, ("iid", "given 3")),
        ({"dirichlet": -1}, (0, "greater", "bench.yaml")),
        ({"dirichlet": float("inf")}, ("finite", "bench.yaml")),
        ("note", ("given nothing", "note: 0.05")),
        ({"note": 0}, (0, "greater", "bench.yaml")),
        ({"kind": "note", "delta": 1, "cycles": 2}, ("note", "given 1", 2)),
        ({"dirichlet": 0.1, "temporal": 1}, ("stream", "bench.yaml", "streams[1]")),
        ("recurring", ("given nothing", "recurring: 3")),
        ({"recurring": 0}, (0, "equal", "bench.yaml")),
        ({"recurring": 2.5}, ("given: 2.5", "bench.yaml")),
        ({"drift": "contrst"}, ("contrst", "contrast")),
        ({"kind": "drift", "shift": "blur", "cycles": 2}, ("drift", "given 2", "blur")),
        ({"kind": "iid", "cycles": 2}, ("iid", "given 2", "bench.yaml")),
    ],
)
def test_a_wrong_form_is_a_sentence(form: Any, words: tuple[object, ...]) -> None:
    class Bench(BaseModel):
        streams: list[StreamSpec]

    with refused(*words) as caught:
        validate(Bench, {"streams": ["iid", form]}, "bench.yaml")
    assert str(caught.value).startswith("bench.yaml: ")
    assert "streams[1]" in str(caught.value)


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


def test_a_drift_is_of_the_images_that_arrive() -> None:
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with refused(3, "4 images"):
        drifted(images, np.arange(3), "contrast", 0, "north")
    with refused("contrst", "contrast"):
        drifted(images, np.arange(4), "contrst", 0, "north")
    with refused("uint8", "torch.float32"):  # divided by 255 they would be nearly black
        drifted(images.float(), np.arange(4), "contrast", 0, "north")
