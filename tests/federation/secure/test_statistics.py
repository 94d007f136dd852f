"""Sums over images under masks: those in the open to fixed point, and no hospital's own anywhere."""

import numpy as np
import pytest
import torch
from facts import refused

from fedmerge.data.cohort.fusion import share
from fedmerge.federation import FederationOptions, LocalGrid, Server, client_app
from fedmerge.federation.deployment.keys import make_node_key, read_public
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.hospital.secure.rounds import SecureHospital
from fedmerge.federation.hospital.sums.answer import program_of
from fedmerge.federation.hospital.sums.masks import to_words
from fedmerge.federation.hospital.sums.rules import SIMULATED
from fedmerge.federation.hospital.sums.session_store import SessionStore
from fedmerge.federation.packing import pack
from fedmerge.federation.plan.participation import Participation
from fedmerge.federation.server.plan_checks import check_plan
from fedmerge.merging import merge
from fedmerge.merging.neurons.statistics import LocalStatistics
from fedmerge.models import build

NAMES = ["alpha", "beta", "gamma", "delta"]
IMAGES = {"alpha": 18, "beta": 20, "gamma": 17, "delta": 19}
OUTER = ("outer", {"layers": ["head"]}, {})
RULES = {True: FederationOptions(secure_statistics=True), False: FederationOptions()}


class Watched(LocalGrid):
    """A grid that keeps what came back, and loses replies: ``lost`` by message type.

    before: what is done to a message on its way to a hospital.
    """

    def __init__(self, app, n):
        super().__init__(app, n)
        self.carried, self.lost, self.before = [], {}, lambda message: None

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            self.before(message)
            for reply in super().send_and_receive([message]):
                arrays = {} if reply.has_error() else reply.content.array_records.get("arrays", {})
                numbers = {key: array.numpy().copy() for key, array in arrays.items()}
                self.carried.append((message.metadata.message_type, reply, numbers))
                if reply.metadata.src_node_id not in self.lost.get(message.metadata.message_type, ()):
                    yield reply


@pytest.fixture
def states(plan):
    """A model a hospital, whose batch norms have seen something."""
    found = {}
    for seed, name in enumerate(NAMES):
        model, noise = build(plan.model, seed), torch.Generator().manual_seed(seed)
        for _ in range(2):
            model.train()(torch.randn(8, 1, 8, 8, generator=noise) * 2 + seed)
        found[name] = {key: value.detach().clone() for key, value in model.state_dict().items()}
    return found


@pytest.fixture
def ward(plan, cohort):
    """A function that makes a server of some hospitals, of which all four are there.

    folders: of nodes, by site. shelves: where a new process for each message lays things aside.
    """

    def make(masked=True, sites=None, folders=None, shelves=None, **options):
        sites = cohort.sites if sites is None else sites
        folders = folders or {}
        rules = RULES[masked].model_copy(update=options)

        def made(site):
            session_store = None if shelves is None else SessionStore(shelves / site.name)
            return Hospital(
                site, folder=folders.get(site.name), session_store=session_store, sum_rules=SIMULATED
            )

        kept = [made(site) for site in sites]

        def hospital_of(context):
            i = int(context.node_config["partition-id"])
            return kept[i] if shelves is None else made(sites[i])

        app = client_app(hospital_of, memory_in_context=shelves is not None)
        server = Server(Watched(app, len(sites)), plan.model_copy(update={"federation": rules}))
        server.kept = kept
        return server

    return make


@pytest.fixture
def folders(cohort, tmp_path):
    """Folders of deployed nodes with keys; each has pinned the others'."""
    made, keys = {}, {}
    for site in cohort.sites:
        made[site.name] = tmp_path / f"node-{site.name}"
        made[site.name].mkdir()
        keys[site.name] = read_public(make_node_key(made[site.name]))
    for name, folder in made.items():
        SecureHospital(name, folder).peers.pin(keys)
    return made


def ask(server, states, *sums_asked, images=IMAGES):
    """The answer to one request, over the images of the hospitals that are there."""
    here = {member.name: images[member.name] for member in server.clients}
    return server.statistics(states, here, "train").ask(*(sums_asked or OUTER))


def node(server, name):
    return next(member.node_id for member in server.clients if member.name == name)


def own_sums(server, states, cohort, name, kind, options):
    """What one hospital would answer in the open, packed."""
    images = server.plan.normalisation(share(cohort[name], IMAGES[name], "train", server.plan.seed).images)
    program = program_of(server.plan.model)
    local = LocalStatistics(program, [(program, state) for state in states.values()], images)
    return pack(kind, local.ask(kind, options, {}))


def fused(server, states, method, **options):
    models = [build(server.plan.model, 0) for _ in states]
    for model, state in zip(models, states.values(), strict=True):
        model.load_state_dict(state)
    here = {member.name: IMAGES[member.name] for member in server.clients}
    statistics = server.statistics(states, here, "train")
    x = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    result = merge(models, method, names=list(states), data=x[:2], statistics=statistics, **options)
    assert server.strategy.failures == []
    return result.model(x).detach(), statistics


# --- the same sums


@pytest.mark.parametrize("sums_asked", [OUTER, ("moments", {}, {})])
def test_sums_are_those_in_the_open_to_fixed_point(ward, states, cohort, sums_asked):
    """Each hospital rounds a number x to a multiple of 2^-44: by 2^-45 at most, and not at all from 2^9 on,
    where doubles are no finer. The sum in the open rounds three times, each by 2^-53 of all hospitals'
    magnitudes; the other one once."""
    server = ward()
    found, expected = (ask(each, states, *sums_asked) for each in (server, ward(masked=False)))
    assert found.keys() == expected.keys()
    assert float(found["images"]) == sum(IMAGES.values())
    each = [own_sums(server, states, cohort, name, *sums_asked[:2]) for name in NAMES]
    for key, value in expected.items():
        magnitude = sum(float(sums[key].abs().max()) for sums in each)
        bound = len(NAMES) * 2.0**-45 + len(NAMES) * 2.0**-53 * magnitude
        assert float((found[key] - value).abs().max()) <= bound, key
    assert server.strategy.failures == []


@pytest.mark.parametrize(
    ("method", "options"),
    [("hf", {"after": "repair"}), ("kf", {}), ("mean", {"after": "batch-norm"}), ("rebasin", {}), ("ot", {})],
)
def test_fusion_from_masked_sums_is_fusion_from_open_ones(ward, states, method, options):
    """The sums differ by 1e-13 and less, which solving may enlarge, and weights are float32."""
    found, statistics = fused(ward(), states, method, **options)
    expected, _ = fused(ward(masked=False), states, method, **options)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert statistics.together == tuple(sorted(NAMES))


def test_a_new_process_for_every_message_gives_the_same(ward, states, tmp_path):
    found, _ = fused(ward(shelves=tmp_path), states, "hf")
    expected, _ = fused(ward(), states, "hf")
    assert torch.equal(found, expected)


def test_a_hospital_that_lost_the_models_in_a_walk_gets_them_again(ward, states):
    server, other = ward(), ward(masked=False)
    first, second = program_of(server.plan.model).layers[:2]
    changed = {first.weight: states["gamma"][first.weight] * 2}
    answers = []
    for each in (server, other):
        statistics = each.statistics(states, IMAGES, "train")
        statistics.ask("walk", {}, states["alpha"])
        statistics.ask("layer", {"name": first.name}, {})
        each.kept[1].sums.session = None
        answers.append(statistics.ask("layer", {"name": second.name}, changed))
    for key, value in answers[1].items():
        torch.testing.assert_close(answers[0][key], value, rtol=1e-12, atol=1e-12)
    assert server.strategy.failures == []


# --- nobody's own


def test_no_hospitals_sums_cross_the_grid(ward, states, cohort):
    """Of its numbers, none is in what it sends; the bytes look drawn at random (chi-square of 255 degrees of
    freedom: its mean is 255, and above 400 it is once in 10^8); and the sum of all is theirs."""
    server = ward()
    ask(server, states, "moments", {}, {})
    sent = {r.metadata.src_node_id: a["numbers"] for k, r, a in server.grid.carried if "numbers" in a}
    assert {kind for kind, _, arrays in server.grid.carried if arrays} == {"query.secure_masked"}
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
    for kind, reply, _ in server.grid.carried:
        if kind.startswith("query.secure_sums"):
            for metrics in reply.content.metric_records.values():
                assert set(metrics) == {"known"}


@pytest.mark.parametrize("sums_asked", [("inputs", {}, {}), ("importance", {"kind": "conductance"}, {})])
def test_what_one_hospital_answers_alone_is_refused_by_name(ward, states, sums_asked):
    server = ward()
    with refused(sums_asked[0], "masks", "hide"):
        ask(server, states, *sums_asked)
    assert "query.secure_sums" not in [kind for kind, *_ in server.grid.carried]


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
        return {kind for kind, *_ in server.grid.carried if "sums" in kind}

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


def test_rounds_that_fuse_by_sums_are_masked(ward, plan):
    """Two rounds of hf, other models over the same images of the same hospitals."""
    server = ward(aggregate=FederationOptions(aggregate="hf").aggregate)
    server.rounds(server.start())
    assert server.strategy.failures == []
    assert "query.sums" not in [kind for kind, *_ in server.grid.carried]
    assert "query.secure_sums" in [kind for kind, *_ in server.grid.carried]


# --- hospitals that are lost


@pytest.mark.parametrize("step", ["query.secure_sums", "query.secure_shares", "query.secure_masked"])
def test_a_hospital_lost_in_the_first_request_is_in_no_sum(ward, states, cohort, step):
    """The others go on without it, with all requests and in the next fusion; sums are those of three."""
    server = ward()
    server.grid.lost[step] = [node(server, "beta")]
    statistics = server.statistics(states, IMAGES, "train")
    found = statistics.ask(*OUTER)
    server.grid.lost.clear()
    moments = statistics.ask("moments", {}, {})
    rest = [site for site in cohort.sites if site.name != "beta"]
    expected = ask(ward(masked=False, sites=rest), states)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)
    later = server.statistics(states, IMAGES, "train").ask("moments", {}, {})
    for sums in (moments, later):
        assert float(sums["images"]) == sum(IMAGES.values()) - IMAGES["beta"]
    assert {failure.site for failure in server.strategy.failures} == {"beta"}


def test_a_hospital_that_vanishes_when_masks_come_off_is_in_the_sum(ward, states):
    server = ward()
    server.grid.lost["query.secure_unmask"] = [node(server, "beta")]
    statistics = server.statistics(states, IMAGES, "train")
    assert float(statistics.ask(*OUTER)["images"]) == sum(IMAGES.values())
    server.grid.lost.clear()
    assert float(statistics.ask("moments", {}, {})["images"]) == sum(IMAGES.values())


@pytest.mark.parametrize("step", ["query.secure_sums", "query.secure_masked"])
def test_a_hospital_lost_later_ends_the_fusion_and_its_sums_stay_its_own(ward, states, step):
    """The diagonal of ``outer`` holds sums of squares that ``moments`` holds, too: a sum of three hospitals
    would show the fourth's. Nothing is unmasked; when all are there again, it goes on."""
    server = ward()
    statistics = server.statistics(states, IMAGES, "train")
    statistics.ask(*OUTER)
    server.grid.lost[step] = [node(server, "beta")]
    server.grid.carried.clear()
    with refused("beta", "hospitals"):
        statistics.ask("moments", {}, {})
    assert "query.secure_unmask" not in [kind for kind, *_ in server.grid.carried]
    server.grid.lost.clear()
    assert float(statistics.ask("moments", {}, {})["images"]) == sum(IMAGES.values())


def test_retry_asks_again_when_the_hospital_is_back(ward, states):
    server = ward(on_failure="retry")
    statistics = server.statistics(states, IMAGES, "train")
    statistics.ask(*OUTER)
    server.grid.lost["query.secure_masked"] = [node(server, "beta")]
    seen = []

    def back(message):
        seen.append(message.metadata.message_type)
        if seen.count("query.secure_sums") > len(NAMES):
            server.grid.lost.clear()

    server.grid.before = back
    assert float(statistics.ask("moments", {}, {})["images"]) == sum(IMAGES.values())


def test_of_three_hospitals_none_can_be_lost(ward, states, cohort):
    server = ward(sites=cohort.training)
    server.grid.lost["query.secure_masked"] = [node(server, "beta")]
    with refused("2", "3", "hospitals"):
        ask(server, states)


def test_garbage_is_no_sum(ward, states, monkeypatch):
    masked, rng = SecureHospital.masked, np.random.default_rng(0)

    def garbage(self, message):
        reply = masked(self, message)
        record = reply.content.array_records["arrays"]
        if self.name == "beta":
            numbers = rng.integers(-(2**63), 2**63, record["numbers"].shape)
            record["numbers"] = type(record["numbers"])(numbers)
        return reply

    monkeypatch.setattr(SecureHospital, "masked", garbage)
    with refused("no sum under masks"):
        ask(ward(), states)


# --- servers that lie


def reasons(server):
    return " ".join(failure.reason for failure in server.strategy.failures)


@pytest.mark.parametrize("sums_asked", [OUTER, ("moments", {}, {})])
def test_after_a_restart_no_sum_is_given_without_one_hospital(ward, states, cohort, folders, sums_asked):
    """The same request, or another over the same images, whatever the run is called: from what the server
    has it could take the fourth's sums. The first list is answered again."""
    first = ask(ward(folders=folders), states)
    again = ward(sites=cohort.sites[:3], folders=folders)
    with refused("no sum under masks"):
        ask(again, states, *sums_asked)
    assert "difference of two sums would show" in reasons(again)
    assert not any("numbers" in arrays for *_, arrays in again.grid.carried)
    repeated = ask(ward(folders=folders), states)
    assert all(torch.equal(first[key], repeated[key]) for key in first)


def test_nor_for_other_models_or_a_larger_share(ward, states, cohort, folders):
    """Sixteen images more of one and twenty of another are sets that the ledger of sums allows."""
    ask(ward(folders=folders), states)
    nudged = {
        name: {key: v * 1.001 if v.is_floating_point() else v for key, v in state.items()}
        for name, state in states.items()
    }
    more = {name: n + 16 for name, n in IMAGES.items()}
    for given, images in ((nudged, IMAGES), (states, more)):
        again = ward(sites=cohort.sites[:3], folders=folders)
        with refused("no sum under masks"):
            ask(again, given, images=images)
        assert "has given sums over these images under masks with" in reasons(again)
    assert float(ask(ward(folders=folders), states, images=more)["images"]) == sum(more.values())


def test_sets_that_differ_by_few_images_are_refused_as_ever(ward, states, folders):
    """And without that hospital the others give no sum either."""
    ask(ward(folders=folders), states)
    again = ward(folders=folders)
    with refused("no sum under masks"):
        ask(again, states, images=IMAGES | {"beta": 21})
    (failure,) = [failure for failure in again.strategy.failures if failure.phase == "sums"]
    assert failure.site == "beta"
    assert "1 of them could be told apart" in failure.reason


def test_a_hospital_counts_the_requests_that_it_answers_under_masks(ward, states):
    server = ward()
    for hospital in server.kept:
        hospital.sums.ledger.rules = SIMULATED.model_copy(update={"requests": 1})
    ask(server, states)
    with refused("answered", "1", "requests"):
        ask(server, states, "moments", {}, {})


def zeros(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


def test_models_without_weights_for_the_others_give_no_sum(ward, states):
    """Their part would be zero, and the sum the first hospital's own. The label tells them apart."""
    server = ward()
    statistics = server.statistics(states, IMAGES, "train")
    other = server.statistics({name: zeros(state) for name, state in states.items()}, IMAGES, "train")
    victim = node(server, "alpha")

    def swap(message):
        about = message.metadata
        begins = about.message_type == "query.secure_sums_begin" and "arrays" in message.content
        if begins and about.dst_node_id != victim:
            message.content["arrays"] = other._weights

    server.grid.before = swap
    from fedmerge.federation.hospital.sums import answer as hospital

    hospital._HELD.clear()
    server.kept[0].sums.session = None
    with refused("no sum under masks"):
        hospital_states_apart(statistics)
    assert reasons(server).count("was asked another request than the label of the sum says") >= 1


def hospital_states_apart(statistics):
    """Hospitals of one process share the models of a session; here each reads those that it was sent."""
    from fedmerge.federation.hospital.sums import answer as hospital

    class Nothing(dict):
        def __setitem__(self, key, value):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hospital, "_HELD", Nothing())
        return statistics.ask(*OUTER)


@pytest.mark.parametrize("trick", ["another fused model", "changed behind the walk", "a walk in the open"])
def test_nor_does_another_walk_for_the_others(ward, states, trick):
    """With weights of zero the others' ``gram`` and ``cross`` would be zero."""
    server = ward()
    first, second = program_of(server.plan.model).layers[:2]
    statistics = server.statistics(states, IMAGES, "train")
    statistics.ask(*OUTER)
    fake = zeros(states["alpha"])
    victim = server.kept[0]
    statistics.ask("walk", {}, states["alpha"])
    for hospital in server.kept:
        if hospital is victim:
            continue
        session = hospital.sums.session
        if trick == "another fused model":
            session.take("walk", fake, True)
            session.statistics[0].ask("walk", {}, fake)
        elif trick == "a walk in the open":
            session.take("walk", fake, False)
            session.statistics[0].ask("walk", {}, fake)
    sums_asked, sent = ("layer", {"name": first.name}, {}), len(server.grid.carried)
    if trick == "changed behind the walk":
        statistics.ask("layer", {"name": second.name}, {})
        sums_asked = ("layer", {"name": second.name}, {first.weight: fake[first.weight]})
        sent = len(server.grid.carried)
    said = {
        "another fused model": ("another", "request", "label"),
        "changed behind the walk": ("cannot be changed",),
        "a walk in the open": ("in the open",),
    }[trick]
    with refused(*said):
        statistics.ask(*sums_asked)
    assert not any("numbers" in arrays for kind, _, arrays in server.grid.carried[sent:])


# --- what hospitals ask for


def test_secure_only_gives_sums_under_masks_and_none_in_the_open(ward, states, folders):
    for folder in folders.values():
        (folder / "policy.yaml").write_text("secure: only\n")
    assert float(ask(ward(folders=folders), states)["images"]) == sum(IMAGES.values())
    with refused("sums", "images"):
        ask(ward(masked=False, folders=folders), states)
