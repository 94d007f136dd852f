"""Laws of the aggregators: symmetric in the hospitals, a mean without hostile ones, and where each breaks."""

import itertools
import math

import pytest
import torch
from facts import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmerge.federation.aggregators import AGGREGATORS, AggregationContext, Update
from fedmerge.federation.checks import check_update
from fedmerge.models import average, state_hash

ROBUST = ["median", "trimmed-mean", "krum", "multi-krum", "norm-clipping"]
values = st.floats(-100, 100, width=32)


def state(w, mean=0.0, var=1.0, batches=0):
    """A model of two weights and one batch-norm channel."""
    return {
        "w": torch.tensor(w, dtype=torch.float32),
        "n.running_mean": torch.tensor([mean], dtype=torch.float32),
        "n.running_var": torch.tensor([var], dtype=torch.float32),
        "n.num_batches_tracked": torch.tensor(batches),
    }


START = state([0.0, 0.0])
states = st.builds(
    lambda a, b, mean, var, n: state([a, b], mean, var, n),
    values,
    values,
    values,
    st.floats(0.125, 100, width=32),
    st.integers(0, 9),
)


def aggregate(method, given, images=None, batch_norm="mixture", **options):
    sizes = images or [10.0] * len(given)
    updates = [Update(f"s{i}", one, n) for i, (one, n) in enumerate(zip(given, sizes, strict=True))]
    context = AggregationContext(START, 1, 0, batch_norm)
    return AGGREGATORS[method].call(iter(updates), context, **options)


def close(a, b, tolerance=1e-4):
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", ["mean", *ROBUST])
@given(known=st.lists(states, min_size=5, max_size=7, unique_by=lambda s: tuple(s["w"].tolist())))
@settings(max_examples=15)
def test_the_order_of_hospitals_does_not_matter(method, known):
    """Integer buffers of a mean are those of the first, so they are left out; Krum's ties have one winner a
    name, so weights are distinct."""
    known = [one | {"n.num_batches_tracked": torch.tensor(3)} for one in known]
    merged = aggregate(method, known).state
    turned = aggregate(method, known[::-1]).state
    if method in ("krum", "multi-krum"):
        scores = [row["score"] for row in aggregate(method, known).decisions]
        if len({round(score, 3) for score in scores}) < len(scores):
            return  # equal scores: the first by name wins
    close(merged, turned)


@given(one=states, n=st.integers(5, 8))
@settings(max_examples=10)
def test_hospitals_that_agree_are_believed_exactly(one, n):
    for method in ["mean", *ROBUST]:
        close(aggregate(method, [one] * n).state, one, tolerance=0)


@pytest.mark.parametrize("batch_norm", ["mixture", "average"])
@given(known=st.lists(states, min_size=1, max_size=6))
@settings(max_examples=20)
def test_a_trimmed_mean_that_trims_nothing_is_the_mean(batch_norm, known):
    """Also its batch-norm statistics: v + (m - mean)^2, averaged, is the variance of the mixture. Integer
    buffers alone differ, the lower median for the first."""
    trimmed = aggregate("trimmed-mean", known, batch_norm=batch_norm, trim=0.0).state
    expected = average(known, batch_norm=batch_norm)
    counts = sorted(int(one["n.num_batches_tracked"]) for one in known)
    assert int(trimmed.pop("n.num_batches_tracked")) == counts[(len(known) - 1) // 2]
    expected.pop("n.num_batches_tracked")
    close(trimmed, expected)


def test_the_median_coordinate_by_coordinate_odd_and_even():
    """Of (1, 9), (2, 7), (6, 8): (2, 8); with (3, 100) beside them (2.5, 8.5). Batch norm: the median of
    means 0, 2, 10 is 2; of variances 1, 1, 1 plus squared distances 4, 0, 64 it is 5."""
    known = [state([1, 9], 0.0, 1.0, 5), state([2, 7], 2.0, 1.0, 1), state([6, 8], 10.0, 1.0, 3)]
    close(aggregate("median", known).state, state([2, 8], 2.0, 5.0, 3))
    close(aggregate("median", known, batch_norm="average").state, state([2, 8], 2.0, 1.0, 3))
    four = aggregate("median", [*known, state([3, 100])]).state
    assert four["w"].tolist() == [2.5, 8.5]
    assert four["n.num_batches_tracked"].dtype == torch.int64


def test_the_trimmed_mean_drops_the_share_it_says_at_each_end():
    """Of 0, 1, 2, 3, 10: 0.2 drops one at each end, (1 + 2 + 3) / 3; 0.39 still one; 0.4 two."""
    known = [state([v, 0.0]) for v in (10.0, 0.0, 2.0, 1.0, 3.0)]
    for trim, expected in ((0.2, 2.0), (0.39, 2.0), (0.4, 2.0), (0.0, 3.2), (0.19, 3.2)):
        got = aggregate("trimmed-mean", known, trim=trim).state["w"][0].item()
        assert got == pytest.approx(expected), trim
    hundred = [state([float(i == 0), 0.0]) for i in range(100)]
    assert aggregate("trimmed-mean", hundred, trim=0.29).state["w"][0] == 0
    lone = [state([float(i >= 71), 0.0]) for i in range(100)]  # 29 ones: all are trimmed
    assert aggregate("trimmed-mean", lone, trim=0.29).state["w"][0] == 0


@given(known=st.lists(states, min_size=5, max_size=8))
@settings(max_examples=20)
def test_krum_picks_one_of_the_inputs_whole(known):
    merged = aggregate("krum", known)
    shares = [row["share"] for row in merged.decisions]
    assert sorted(shares) == [0.0] * (len(known) - 1) + [1.0]
    assert state_hash(merged.state) == state_hash(known[shares.index(1.0)])


def test_krum_scores_are_sums_over_the_nearest():
    """On a line at 0, 1, 3, 7, 20 with f = 1: each has 5 - 1 - 2 = 2 neighbours. Squares to the two nearest:
    0: 1 + 9; 1: 1 + 4; 3: 4 + 9; 7: 16 + 36; 20: 169 + 289. The best is 1, then 0, then 3, then 7."""
    known = [state([v, 0.0]) for v in (0.0, 1.0, 3.0, 7.0, 20.0)]
    merged = aggregate("krum", known, hostile=1)
    assert [row["score"] for row in merged.decisions] == [10.0, 5.0, 13.0, 52.0, 458.0]
    assert merged.state["w"].tolist() == [1.0, 0.0]
    assert aggregate("multi-krum", known, hostile=1).state["w"][0] == pytest.approx(11 / 4)
    assert aggregate("multi-krum", known, hostile=1, keep=2).state["w"][0] == 0.5


def test_a_hospital_cannot_hide_from_krum_in_its_batch_norm_statistics():
    known = [state([1.0, 1.0]) for _ in range(4)] + [state([1.0, 1.0], mean=1e6)]
    for order in ([0, 1, 2, 3, 4], [4, 0, 1, 2, 3]):
        merged = aggregate("krum", [known[i] for i in order])
        assert merged.state["n.running_mean"] == 0


def test_clipping_shortens_to_the_norm_and_no_more():
    """From (0, 0): (3, 4) is 5 long, (0, 1) is 1. Clipped to 2.5: ((1.5, 2) + (0, 1)) / 2; the median of 5, 1
    is 3: ((1.8, 2.4) + (0, 1)) / 2. With images 3 and 1 the shares are 3/4 * 0.5 and 1/4."""
    known = [state([3, 4]), state([0, 1])]
    fixed = aggregate("norm-clipping", known, norm=2.5)
    torch.testing.assert_close(fixed.state["w"], torch.tensor([0.75, 1.5]))
    torch.testing.assert_close(aggregate("norm-clipping", known).state["w"], torch.tensor([0.9, 1.7]))
    weighted = aggregate("norm-clipping", known, images=[3.0, 1.0], norm=2.5)
    assert [(row["norm"], row["share"]) for row in weighted.decisions] == [(5.0, 0.375), (1.0, 0.25)]
    loose = aggregate("norm-clipping", known, norm=50.0).state
    assert state_hash(loose) == state_hash(aggregate("mean", known, batch_norm="average").state)


@pytest.mark.parametrize("size", [1e3, 1e30])
@pytest.mark.parametrize("hostile", [1, 2, 3, 4])
def test_each_breaks_where_its_paper_says(hostile, size):
    """10 hospitals; honest ones answer within 0.1 of (1, 1), hostile ones (-size, -size) in everything.

    Krum's guarantee needs 10 >= 2 f + 3, so f <= 3; the median and a trimmed mean of 0.4 hold 4; a trim of
    0.2 holds 2; the mean holds none. Clipping to the honest length bounds what a hostile one moves, so the
    model is (10 - 2 f) / 10 of the way.
    """
    honest = [state([1 + 0.01 * i, 1 - 0.01 * i], 0.01 * i) for i in range(10 - hostile)]
    everything = honest + [state([-size, -size], -size, size)] * hostile

    def near(method, **options):
        merged = aggregate(method, everything, **options).state
        weights = bool((merged["w"] - 1).abs().max() <= 0.1)
        return weights and merged["n.running_mean"].abs() <= 0.1 and merged["n.running_var"] <= 1.1

    assert not near("mean")
    assert near("median")
    assert near("trimmed-mean", trim=0.4)
    assert near("trimmed-mean", trim=0.2) == (hostile <= 2)
    if hostile <= 3:
        assert near("krum", hostile=hostile)
        assert near("multi-krum", hostile=hostile)
    clipped = aggregate("norm-clipping", everything, norm=2**0.5).state
    reached = 1 - hostile / 5
    assert clipped["w"].tolist() == pytest.approx([reached] * 2, abs=0.05)
    assert clipped["n.running_mean"].abs() <= 0.1


def test_half_of_the_hospitals_move_the_median():
    known = [state([1.0, 1.0])] * 5 + [state([-1e3, 0.0])] * 5
    assert aggregate("median", known).state["w"][0] < -100


@pytest.mark.parametrize("method", ["krum", "multi-krum"])
@pytest.mark.parametrize("hostile", [0, 1, 2])
def test_krum_refuses_too_few_in_a_sentence(method, hostile):
    known = [state([0.0, 0.0])] * (2 * hostile + 3)
    aggregate(method, known, hostile=hostile)
    with refused("1", method, hostile, "quorum"):
        aggregate(method, known[1:], hostile=hostile)
    if method == "multi-krum":
        with refused("keep", "9", "updates"):
            aggregate(method, known, hostile=hostile, keep=9)


def test_integers_stay_integers_and_every_key_stays_in_its_place():
    known = [state([float(i), 0.0], batches=n) for i, n in enumerate((4, 4, 9, 1, 1000000))]
    for method in ["mean", *ROBUST]:
        merged = aggregate(method, known).state
        assert list(merged) == list(known[0]), method
        assert {k: v.dtype for k, v in merged.items()} == {k: v.dtype for k, v in known[0].items()}, method
    for method, expected in (("mean", 4), ("median", 4), ("trimmed-mean", 4), ("norm-clipping", 4)):
        assert aggregate(method, known).state["n.num_batches_tracked"] == expected


@pytest.mark.parametrize("method", ["mean", *ROBUST])
def test_no_input_is_written_to(method):
    known = [state([float(i), 1.0], i, 1.0 + i) for i in range(5)]
    before = [state_hash(one) for one in known]
    aggregate(method, known)
    assert [state_hash(one) for one in known] == before
    assert state_hash(START) == state_hash(state([0.0, 0.0]))


def test_mean_holds_one_update_at_a_time():
    """Each state is watched: when the next is made, at most one older one is alive."""
    import weakref

    alive = []

    def updates():
        for i in itertools.count():
            if i == 6:
                return
            one = state([float(i), 0.0])
            assert sum(ref() is not None for ref in alive) <= 1
            alive.append(weakref.ref(one["w"]))
            yield Update(f"s{i}", one, 1.0)
            del one

    merged = AGGREGATORS["mean"].call(updates(), AggregationContext(START, 1, 0))
    assert merged.state["w"][0] == 2.5


@pytest.mark.parametrize("method", ["mean", *ROBUST])
def test_tables_of_integers_must_be_equal_and_reparametrised_weights_need_a_network(method):
    """Krum chooses one whole update, so it takes any table; a sum of v of a weight norm is no weight."""
    known = [state([float(i), 0.0]) | {"table": torch.tensor([1, 2])} for i in range(5)]
    assert aggregate(method, known).state["table"].tolist() == [1, 2]
    known[1]["table"] = torch.tensor([2, 1])
    if method != "krum":
        with refused("table", "int64", "values"):
            aggregate(method, known)
        normed = [state([0.0, 0.0]) | {"a_g": torch.ones(2, 1), "a_v": torch.ones(2, 3)}] * 5
        with refused("a_g", "part", "weight"):
            aggregate(method, normed)


def test_complex_weights_have_a_mean_and_no_order():
    """The mean of 1 + i and 3 - i, weighted 10 to 30, is 2.5 - 0.5 i."""
    known = [state([0.0, 0.0]) | {"c": torch.tensor([value])} for value in (1 + 1j, 3 - 1j, 0j, 0j, 0j)]
    assert aggregate("mean", known[:2], images=[10.0, 30.0]).state["c"].item() == 2.5 - 0.5j
    for method in ("median", "trimmed-mean", "krum", "multi-krum"):
        with refused("c", "complex"):
            aggregate(method, known)


def test_an_update_with_another_table_than_was_sent_is_refused_and_a_count_is_not():
    sent = state([0.0, 0.0]) | {"table": torch.tensor([1, 2]), "steps": torch.tensor(0)}
    assert check_update(sent | {"steps": torch.tensor(5)}, sent) is None
    wrong = check_update(sent | {"table": torch.tensor([2, 1])}, sent)
    assert "'table' holds other int64 values" in wrong


@pytest.mark.parametrize("method", ROBUST)
def test_what_compares_updates_takes_none_that_is_not_finite(method):
    """Sorted, NaN is the largest number: the median of 0, 1, 2 and NaN would be 1.5. Krum would choose it."""
    with refused("s4", "w", "NaN"):
        aggregate(method, [state([value, 0.0]) for value in (0, 1, 2, 3, math.nan)])
    with refused("update"):
        aggregate(method, [])
