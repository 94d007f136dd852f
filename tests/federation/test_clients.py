"""Who takes part is settled once, by names: nodes may come late, belong to others, or say why they cannot."""

import pytest
from facts import refused
from flwr.app import Error, Message

from fedmerge.errors import FedMergeError
from fedmerge.federation import FederationOptions, Hospital, LocalGrid, client_app, server_app
from fedmerge.federation.messages.records import reason_of, request_message
from fedmerge.federation.server import clients
from fedmerge.federation.server.clients import wait_for_clients


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(clients, "POLL", 0.01)


class Late(LocalGrid):
    """At the n-th look there are n nodes more than before the first."""

    looks = 0

    def get_node_ids(self):
        self.looks += 1
        return super().get_node_ids()[: self.looks]


def nodes(sites, kind=LocalGrid, broken=()):
    hospitals = [Hospital(site) for site in sites]

    def of(context):
        number = context.node_config["partition-id"]
        if hospitals[number].site.name in broken:
            raise FedMergeError(f"{hospitals[number].site.name} has no images: give it some.")
        return hospitals[number]

    return kind(client_app(of), len(hospitals))


def test_hospitals_that_come_late_are_waited_for(cohort):
    members, absent = wait_for_clients(nodes(cohort.training, Late), ["alpha", "beta", "gamma"], patience=60)
    assert ([member.name for member in members], absent) == (["alpha", "beta", "gamma"], {})


def test_without_patience_whoever_is_there_takes_part_and_the_others_are_named(cohort):
    members, absent = wait_for_clients(nodes(cohort.training, Late), ["alpha", "beta", "gamma"])
    assert ([member.name for member in members], list(absent)) == (["alpha"], ["beta", "gamma"])


def test_nodes_of_other_hospitals_are_left_alone(cohort):
    members, absent = wait_for_clients(nodes(cohort.sites), ["gamma", "alpha"])
    assert ([member.name for member in members], absent) == (["alpha", "gamma"], {})


def test_where_every_node_says_why_it_cannot_nobody_is_waited_for(cohort):
    grid = nodes(cohort.training, broken=("alpha", "beta", "gamma"))
    with refused("hospital", "answered", "images"):
        wait_for_clients(grid, ["alpha"], patience=3600)


def test_one_that_was_not_let_in_is_not_waited_for(cohort):
    """beta was revoked, gamma was let in and comes late: gamma is waited for, and beta is named with why."""
    grid = nodes(cohort.training, Late)
    first, _, third = LocalGrid.get_node_ids(grid)
    members, absent = wait_for_clients(
        grid, ["alpha", "beta", "gamma"], patience=3600, admitted={first: "alpha", third: "gamma"}
    )
    assert [member.name for member in members] == ["alpha", "gamma"]
    assert list(absent) == ["beta"]
    assert absent["beta"].kind == "refused"
    assert "was not admitted" in absent["beta"].reason


def test_one_that_has_said_why_it_cannot_is_not_waited_for_where_others_can(cohort):
    """beta's people have refused, say; gamma comes late, and the hour of patience is not used up."""
    grid = nodes(cohort.training, Late, broken=("beta",))
    admitted = dict(zip(LocalGrid.get_node_ids(grid), ("alpha", "beta", "gamma"), strict=True))
    names = list(admitted.values())
    members, absent = wait_for_clients(grid, names, patience=3600, admitted=admitted)
    assert [member.name for member in members] == ["alpha", "gamma"]
    assert "beta has no images" in absent["beta"].reason


def test_two_hospitals_of_one_name_are_refused(cohort):
    with refused("beta", "hospitals", "themselves"):
        wait_for_clients(nodes([*cohort.training, cohort["beta"]]))


def test_a_node_is_heard_under_the_name_it_was_let_in_by_alone(cohort):
    """gamma's node was admitted as delta, beta's not at all."""
    grid = nodes(cohort.training)
    first, _, third = grid.get_node_ids()
    members, absent = wait_for_clients(
        grid, ["alpha", "beta", "gamma"], admitted={first: "alpha", third: "delta", 7: "beta"}
    )
    assert [member.name for member in members] == ["alpha"]
    assert list(absent) == ["beta", "gamma"]
    assert absent["gamma"].kind == "refused"
    assert "admitted as 'delta' calls itself 'gamma'" in absent["gamma"].reason


@pytest.mark.parametrize("quorum", [2, 3])
def test_a_hospital_that_does_not_come_is_a_failure_and_below_the_quorum_the_end(plan, cohort, quorum):
    """Three are wanted, one cannot: two are a quorum of 2, not of 3."""
    seen = []
    wanted = [site.name for site in cohort.training]
    strict = plan.model_copy(update={"federation": FederationOptions(quorum=quorum)})
    app = server_app(strict, seen.append, wanted)
    grid = nodes(cohort.training, broken=("beta",))
    context = next(iter(grid._contexts.values()))
    if quorum == 3:
        with refused("2", "3", "hospitals"):
            app(grid=grid, context=context)
        return
    app(grid=grid, context=context)
    (failure,) = seen[0].strategy.failures
    assert (failure.phase, failure.site) == ("greeting", "beta")
    assert "beta has no images: give it some." in failure.reason


@pytest.mark.parametrize(
    ("how", "dies", "takes_part"), [("retry", 2, True), ("retry", 3, False), ("skip", 1, False)]
)
def test_one_whose_process_dies_as_it_greets_is_asked_again_as_in_a_round(
    plan, cohort, how, dies, takes_part
):
    """With two retries the third attempt counts; each before it is a failure that says it was asked again."""
    hospitals, seen, left = [Hospital(site) for site in cohort.training], [], [dies]

    def of(context):
        number = context.node_config["partition-id"]
        if number == 1 and left[0] > 0:
            left[0] -= 1
            raise RuntimeError("its process died")
        return hospitals[number]

    rules = FederationOptions(on_failure=how, **({"retries": 2} if how == "retry" else {}))
    app = server_app(plan.model_copy(update={"federation": rules}), seen.append, ["alpha", "beta", "gamma"])
    grid = LocalGrid(client_app(of), 3)
    app(grid=grid, context=next(iter(grid._contexts.values())))
    (server,) = seen
    assert [client.name for client in server.clients] == ["alpha", *["beta"] * takes_part, "gamma"]
    then = [(failure.phase, failure.attempt, failure.then) for failure in server.strategy.failures]
    asked = [("greeting", attempt + 1, "asked again") for attempt in range(2 if how == "retry" else 0)]
    assert then == asked + [("greeting", 1, "left out")] * (not takes_part)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("<class 'fedmerge.errors.FedMergeError'>:<'no images:\nadd some.'>", "no images: add some."),
        ("<class 'ValueError'>:<'bad'>", "ValueError: bad"),
        ("node unavailable", "node unavailable"),
    ],
)
def test_the_reason_in_a_reply_is_read_as_our_runtimes_and_flower_s_write_it(cohort, given, read):
    nodes(cohort.training)  # a grid tells Flower whose messages these are
    message = request_message("query", 1001, "g", {}, None)
    message.metadata.__dict__["_message_id"] = "m1"
    assert reason_of(Message(Error(code=1, reason=given), reply_to=message)) == read
