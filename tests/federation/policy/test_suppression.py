"""Small counts: hidden, and not to be worked out from the total, which is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.data.sources.file_facts import FileFacts, Spacing
from fedmerge.federation.plan.train_config import common_config
from fedmerge.federation.policy.proposal import Proposal
from fedmerge.federation.policy.rules import Policy
from fedmerge.federation.policy.suppression import suppressed

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=12)


@given(COUNTS, st.integers(1, 20))
def test_a_count_that_is_told_is_true_and_not_small(counts, below):
    told = suppressed(counts, below)
    assert all(there in (0, count) for there, count in zip(told, counts, strict=True))
    assert not [there for there in told if 0 < there < below]


@given(COUNTS, st.integers(1, 20))
def test_what_is_missing_from_the_total_is_over_enough_images_of_more_than_one_class(counts, below):
    hidden = [count for count, there in zip(counts, suppressed(counts, below), strict=True) if count != there]
    if hidden and any(suppressed(counts, below)):
        assert sum(hidden) >= below
        assert len(hidden) >= 2


@given(COUNTS)
def test_nothing_is_hidden_where_nothing_is_small(counts):
    large = [count + 20 for count in counts]
    assert suppressed(large, 20) == large


def test_the_smallest_other_goes_with_a_small_one():
    assert suppressed([3, 50, 9, 70], 5) == [0, 50, 0, 70]
    assert suppressed([2, 2, 0, 70], 5) == [0, 0, 0, 0]
    assert suppressed([2, 4, 0, 70], 5) == [0, 0, 0, 70]


def test_a_greeting_hides_them_and_says_so(asker, proposal, cohort):
    asker.start(approval="any", suppress_below=10**6)
    assert "fewer than 1000000 images" in asker.wait_for_clients(proposal)
    counts = cohort["alpha"].train.class_counts(3).tolist()
    below = min(count for count in counts if count) + 1
    asker.start(approval="any", suppress_below=below)
    metrics = asker.wait_for_clients(proposal).content["metrics"]
    assert metrics["class-counts"] == suppressed(counts, below) != counts
    assert metrics["suppressed-below"] == below


@pytest.mark.parametrize("counts_leave", [True, False])
def test_that_counts_are_hidden_is_said_also_where_the_policy_does_not_name_it(
    asker, proposal, cohort, counts_leave
):
    numbers = ["num-examples", "num-validation", *(["class-counts"] if counts_leave else [])]
    counts = cohort["alpha"].train.class_counts(3).tolist()
    below = min(count for count in counts if count) + 1
    asker.start(approval="any", suppress_below=below, numbers=numbers)
    greeted = asker.wait_for_clients(proposal)
    assert greeted.content["metrics"]["suppressed-below"] == below
    shown = list(greeted.content["metrics"]["class-counts"])
    assert shown == (suppressed(counts, below) if counts_leave else [0] * 3)
    assert sum(shown) < sum(counts)  # it would contradict num-examples without the number above


def test_pixel_spacing_leaves_where_the_policy_names_it_and_enough_images_say_it(asker, proposal, cohort):
    site, policy = cohort["alpha"], ["num-examples", "num-validation", "class-counts"]
    object.__setattr__(site, "files", FileFacts({}, {}, Spacing(0.7, 0.8, True, images=20)))
    for numbers, below, leaves in (
        ([*policy, "pixel-spacing"], 20, True), (policy, 20, False), ([*policy, "pixel-spacing"], 21, False)
    ):  # fmt: skip
        asker.start(approval="any", suppress_below=below, numbers=numbers)
        metrics = asker.wait_for_clients(proposal).content["metrics"]
        assert (list(metrics["pixel-spacing"]) if "pixel-spacing" in metrics else None) == (
            [0.7, 0.8, 1.0] if leaves else None
        )
    assert "pixel-spacing" not in Policy().numbers


def test_a_number_that_must_stay_stays_and_what_needs_it_is_refused(asker, plan, start):
    asker.start(
        approval="any", suppress_below=1, numbers=["num-examples", "num-validation", "loss", "accuracy"]
    )
    greeted = asker.wait_for_clients(Proposal(plan=plan)).content["metrics"]
    assert not any(greeted["class-counts"])
    from fedmerge.federation.plan.train_config import round_config

    trained = asker.ask("train", round_config(plan, 1), start).content["metrics"]
    assert set(trained) == {"num-examples", "loss", "accuracy"}
    assert "'balanced_accuracy'" in asker.ask("evaluate", common_config(plan), start)
