"""No hospital's own sums are anywhere, and what would show them is refused."""

import numpy as np
import pytest
from facts import refused

from fedmerge.federation import FederationOptions
from fedmerge.federation.hospital.sums.masks import to_words
from fedmerge.federation.plan.participation import Participation
from fedmerge.federation.server.plan_checks import check_plan
from tests.federation.secure.statistics.asking import IMAGES, NAMES, RULES, ask, node, own_sums


def test_no_hospitals_sums_cross_the_grid(ward, states, cohort):
    """Of its numbers, none is in what it sends; the bytes look drawn at random (chi-square of 255 degrees of
    freedom: its mean is 255, and above 400 it is once in 10^8); and the sum of all is theirs."""
    server = ward()
    ask(server, states, "moments", {}, {})
    sent = {r.metadata.src_node_id: a["numbers"] for _, r, a in server.grid.carried if "numbers" in a}
    assert {m.metadata.message_type for m, _, arrays in server.grid.carried if arrays} == {
        "query.secure_masked"
    }
    assert len(sent) == len(NAMES)
    for name in NAMES:
        plain = to_words(own_sums(server, states, cohort, name, "moments", {}))
        numbers = sent[node(server, name)].view(np.uint64)
        assert len(numbers) == len(plain)
        assert not np.isin(numbers, plain).any()
    for numbers in sent.values():
        counts = np.bincount(numbers.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 400
    for message, reply, _ in server.grid.carried:
        if message.metadata.message_type.startswith("query.secure_sums"):
            for metrics in reply.content.metric_records.values():
                assert set(metrics) == {"known"}


@pytest.mark.parametrize("sums_asked", [("inputs", {}, {}), ("importance", {"kind": "conductance"}, {})])
def test_what_one_hospital_answers_alone_is_refused_by_name(ward, states, sums_asked):
    server = ward()
    with refused(sums_asked[0], "masks", "hide"):
        ask(server, states, *sums_asked)
    assert "query.secure_sums" not in server.grid.kinds()


@pytest.mark.parametrize("kind", ["inputs", "importance"])
def test_a_hospital_refuses_it_too(ward, states, monkeypatch, kind):
    """A server that asks all the same, for a sum of which the others have no part."""
    from fedmerge.federation.server import masked_sums as masked

    monkeypatch.setattr(masked, "OWN", ())
    with refused(kind, "answered", "hospital"):
        ask(ward(), states, kind, {"kind": "conductance"} if kind == "importance" else {}, {})


def test_fewer_than_three_hospitals_are_refused(ward, states, plan):
    server = ward()
    with refused("3", "hospitals", "2"):
        server.statistics(states, {"alpha": 18, "beta": 20}, "train")
    with refused("3", "hospitals", "2"):
        check_plan(plan.model_copy(update={"federation": RULES[True]}), 2)
    check_plan(plan.model_copy(update={"federation": RULES[False]}), 2)


def test_with_secure_aggregation_they_are_masked_unless_said_otherwise(ward, states):
    def kinds(**options):
        rules = {"secure_aggregation": True} | options
        server = ward(masked=False)
        server.strategy.plan = server.plan.model_copy(update={"federation": FederationOptions(**rules)})
        ask(server, states)
        return {kind for kind in server.grid.kinds() if "sums" in kind}

    assert kinds() == {"query.secure_sums_begin", "query.secure_sums"}
    assert kinds(secure_statistics=False) == {"query.sums_begin", "query.sums"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"aggregate": "regmean"}, ("regmean", "asks", "model")),
        ({"aggregate": {"method": "kf", "attribution": "conductance"}}, ("kf", "asks", "sums")),
        (
            {"aggregate": "hf", "participation": Participation(number=3)},
            ("secure_statistics", "participation"),
        ),
    ],
)
def test_rounds_that_cannot_be_masked_are_refused_before_they_begin(plan, options, sentence):
    rules = FederationOptions(secure_statistics=True, **options)
    with refused(*sentence):
        check_plan(plan.model_copy(update={"federation": rules}), 4)


def test_secure_only_gives_sums_under_masks_and_none_in_the_open(ward, states, folders):
    for folder in folders.values():
        (folder / "policy.yaml").write_text("secure: only\n")
    assert float(ask(ward(folders=folders), states)["images"]) == sum(IMAGES.values())
    with refused("sums", "images"):
        ask(ward(masked=False, folders=folders), states)
