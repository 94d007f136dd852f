"""Small counts: hidden, and not to be worked out from the total, which is known."""

from collections import defaultdict
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.data.sources.file_facts import FileFacts, Spacing
from fedmerge.federation.plan.train_config import common_config
from fedmerge.federation.policy.proposal import Proposal
from fedmerge.federation.policy.rules import Policy
from fedmerge.federation.policy.suppression import suppressed, told, told_alone

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=12)


@given(COUNTS, st.integers(1, 20))
def test_counts_are_told_as_they_are_or_not_at_all(counts, below):
    small = any(0 < count < below for count in counts)
    assert suppressed(counts, below) == ([0] * len(counts) if small else counts)
    assert told(counts, below) == (["hidden"] * len(counts) if small else counts)
    assert [told_alone(count, below) for count in counts] == [
        f"<{below}" if 0 < count < below else count for count in counts
    ]


@pytest.mark.parametrize("hide", [suppressed, told])
@pytest.mark.parametrize(("classes", "most", "below"), [(2, 30, 5), (3, 24, 5), (4, 14, 5), (3, 15, 3)])
def test_nobody_who_knows_the_total_and_the_rule_knows_a_small_count(hide, classes, most, below):
    """All divisions of up to ``most`` images, grouped by what is told of them and by their total.

    In each group a class has no count at all, one that is not small, or several that it may have. To hide the
    4s of 4 + 4 + 6 and tell the 6 would fail here: two counts below 5 that add up to 8 are 4 and 4.
    """
    found = defaultdict(lambda: [set() for _ in range(classes)])
    for counts in product(range(most + 1), repeat=classes):
        if below <= sum(counts) <= most:  # of a hospital with fewer images nothing is told at all
            for values, count in zip(found[tuple(hide(counts, below)), sum(counts)], counts, strict=True):
                values.add(count)
    assert len(found) > most
    for possible in found.values():
        for values in possible:
            assert len(values) > 1 or not 0 < min(values) < below


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
