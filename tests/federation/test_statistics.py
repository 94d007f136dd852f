"""Sums from hospitals must be those over their pooled shares, and nothing that is one image may travel."""

from dataclasses import dataclass

import pytest
import torch
from facts import refused

from fedmerge.data import concat
from fedmerge.data.cohort.fusion import share
from fedmerge.federation import FederationOptions, LocalGrid, Server, client_app
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.hospital.sums.answer import program_of
from fedmerge.federation.simulated import FIRST_CLIENT_NODE
from fedmerge.merging import merge
from fedmerge.merging.neurons.statistics import LocalStatistics
from fedmerge.models import build

IMAGES = {"alpha": 18, "beta": 20, "gamma": 17}
NAMES = list(IMAGES)
BETA = FIRST_CLIENT_NODE + 1


class Watched(LocalGrid):
    """A grid that keeps the shapes of what hospitals send, and lets a test touch messages and replies."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shapes = []
        self.before = lambda message: None
        self.after = lambda reply: None

    def _deliver(self, message):
        self.before(message)
        key = super()._deliver(message)
        reply = self._replies[key]
        self.after(reply)
        if not reply.has_error():
            for record in reply.content.array_records.values():
                self.shapes += [(name, tuple(array.shape)) for name, array in record.items()]
        return key


@dataclass
class Ward:
    """A federation of three hospitals, three models (one a hospital) and the shares they draw."""

    server: Server
    grid: Watched
    hospitals: list
    states: dict
    shares: dict

    def statistics(self, **changes):
        return self.server.statistics(
            changes.pop("parents", self.states), changes.pop("images", IMAGES), "train"
        )

    def local(self, sites=NAMES, own=None):
        """Statistics over the pooled shares of some sites, here."""
        program = program_of(self.server.plan.model)
        pooled = concat([self.shares[name] for name in sites])
        images = self.server.plan.normalisation(pooled.images)
        parents = [(program, state) for state in self.states.values()]
        return LocalStatistics(program, parents, images, pooled.labels, own=own)


@pytest.fixture
def open_ward(plan, cohort):
    def build_ward(**changes):
        known = plan.model_copy(update=changes)
        hospitals = [Hospital(site) for site in cohort.training]
        app = client_app(lambda context: hospitals[int(context.node_config["partition-id"])])
        grid = Watched(app, len(hospitals))
        states = {name: trained_state(known, seed) for seed, name in enumerate(NAMES)}
        shares = {name: share(cohort[name], n, "train", known.seed) for name, n in IMAGES.items()}
        return Ward(Server(grid, known), grid, hospitals, states, shares)

    return build_ward


@pytest.fixture
def ward(open_ward):
    return open_ward()


def trained_state(plan, seed):
    """Weights of a network with batch-norm statistics that are not the initial ones."""
    model = build(plan.model, seed)
    noise = torch.Generator().manual_seed(seed)
    for _ in range(2):
        model.train()(torch.randn(8, 1, 8, 8, generator=noise) * 2 + seed)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def assert_same(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == torch.float64
        assert found[key].shape == value.shape
        scale = float(value.abs().max()) or 1.0
        assert float((found[key] - value).abs().max()) <= tolerance * scale, key


def layers(ward):
    return [layer.name for layer in program_of(ward.server.plan.model).layers]


# --- the same as over pooled images


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_outer_and_moments_are_those_of_the_pooled_shares(ward, activation):
    sums, local = ward.statistics(), ward.local()
    options = {"layers": layers(ward), "activation": activation}
    assert_same(sums.ask("outer", options, {}), local.ask("outer", options, {}))
    assert_same(sums.ask("moments", {}, {}), local.ask("moments", {}, {}))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("inputs", {}), ("importance", {"kind": "uniform"}), ("importance", {"kind": "conductance"})],
)
def test_what_belongs_to_a_model_comes_from_the_hospital_of_its_name(ward, kind, options):
    found = ward.statistics().ask(kind, options, {})
    expected = {"images": torch.tensor(float(sum(IMAGES.values())), dtype=torch.float64)}
    for m, name in enumerate(NAMES):
        own = ward.local([name], own=m).ask(kind, options, {})
        expected |= {key: value for key, value in own.items() if key != "images"}
    assert_same(found, expected)


def test_a_walk_is_that_over_the_pooled_shares(ward):
    """Each layer is changed once its sums are known, as a fusion does; the next sums depend on it."""
    sums, local = ward.statistics(), ward.local()
    state = {key: value.clone() for key, value in ward.states["alpha"].items()}
    noise = torch.Generator().manual_seed(0)
    for statistics in (sums, local):
        statistics.ask("walk", {}, state)
    changed = {}
    for layer in program_of(ward.server.plan.model).layers:
        name, n = layer.name, state[layer.weight].shape[0]
        mix = torch.randn(n, len(NAMES) * n, generator=noise, dtype=torch.float64)
        for kind, tensors in (("layer", changed), ("layer", {".mix": mix}), ("fused-moments", {})):
            answers = [statistics.ask(kind, {"name": name}, tensors) for statistics in (sums, local)]
            assert_same(*answers)
        changed = {layer.weight: torch.randn(state[layer.weight].shape, generator=noise)}


def test_the_moments_before_a_batch_norm_are_those_of_the_pooled_shares(ward):
    sums, local = ward.statistics(), ward.local()
    for statistics in (sums, local):
        statistics.ask("walk", {}, ward.states["beta"])
    norms = [key for key in ward.states["beta"] if key.endswith("running_mean")]
    changed = {}
    for index, key in enumerate(norms):
        request = ("norm-moments", {"index": index}, changed)
        assert_same(sums.ask(*request), local.ask(*request))
        changed = {key: ward.states["gamma"][key] + 1}
    assert len(norms) > 1


def test_a_hospital_without_a_model_adds_to_what_is_of_all_models_only(ward):
    """Two parents, three hospitals: gamma counts in the moments, not in the inputs."""
    two = {name: ward.states[name] for name in ("alpha", "beta")}
    sums = ward.statistics(parents=two)
    assert float(sums.ask("moments", {}, {})["images"]) == sum(IMAGES.values())
    assert float(sums.ask("inputs", {}, {})["images"]) == IMAGES["alpha"] + IMAGES["beta"]


def test_a_model_whose_hospital_gives_nothing_is_refused_where_its_own_images_count(ward):
    sums = ward.statistics(images={"alpha": 18, "beta": 18})
    assert float(sums.ask("moments", {}, {})["images"]) == 36
    with refused("gamma", "hospital"):
        sums.ask("inputs", {}, {})


# --- fusion

FUSIONS = [
    ("hf", {}),
    ("hf", {"after": "repair"}),
    ("kf", {"towards": "parents"}),
    ("mean", {"after": "batch-norm"}),
    ("rebasin", {}),
    ("ot", {}),
]


@pytest.mark.parametrize(("method", "options"), FUSIONS)
def test_fusion_from_sums_is_fusion_of_the_pooled_images(ward, method, options):
    fused, expected = both(ward, method, ward.local(), options)
    assert float((fused - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("method", "options"),
    [("kf", {"attribution": "conductance"}), ("regmean", {})],
)
def test_fusion_weighs_each_model_on_the_images_of_its_own_hospital(ward, method, options):
    fused, expected = both(ward, method, Own(ward), options)
    assert float((fused - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def test_the_output_layer_weighs_each_model_by_the_logits_of_its_own_hospital(ward):
    """By ablation s_mc is the mean over hospital m's share of |z_mc| where c is the class, plus 1e-8; scores
    have mean one in each model. The fused head's bias is sum_m s_mc b_mc / sum_m s_mc."""
    models = [build(ward.server.plan.model, 0) for _ in NAMES]
    scores, biases = [], []
    for model, (name, state) in zip(models, ward.states.items(), strict=True):
        model.load_state_dict(state)
        own = ward.shares[name]
        z = model.eval()(ward.server.plan.normalisation(own.images)).detach().double()
        mine = own.labels[:, None] == torch.arange(z.shape[1])
        score = (z.abs() * mine).mean(0) + 1e-8
        scores.append(score / score.mean())
        biases.append(list(state.values())[-1].double())
    s, b = torch.stack(scores), torch.stack(biases)
    options = {"attribution": "ablation", "refit": False}
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    fused = merge(models, "kf", names=NAMES, data=x, statistics=ward.statistics(), **options).model
    found = list(fused.state_dict().values())[-1].double()
    torch.testing.assert_close(found, (s * b).sum(0) / s.sum(0), rtol=1e-5, atol=1e-6)
    assert (found - b.mean(0)).abs().max() > 1e-3


class Own:
    """Pooled shares for what concerns all models, a hospital's own share for what concerns its model."""

    def __init__(self, ward):
        self.pooled = ward.local()
        self.each = [ward.local([name], own=m) for m, name in enumerate(NAMES)]

    def ask(self, kind, options, tensors):
        if kind not in ("inputs", "importance"):
            return self.pooled.ask(kind, options, tensors)
        return {key: value for own in self.each for key, value in own.ask(kind, options, tensors).items()}


def both(ward, method, local, options):
    """Outputs of the model fused in the federation, and of the one fused with sums from here."""
    models = [build(ward.server.plan.model, 0) for _ in NAMES]
    for model, state in zip(models, ward.states.values(), strict=True):
        model.load_state_dict(state)
    x = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return [
        merge(models, method, names=NAMES, data=x[:2], statistics=statistics, **options).model(x).detach()
        for statistics in (ward.statistics(), local)
    ]


# --- what may go wrong


@pytest.mark.parametrize("kind", ["layer", "moments"])
def test_a_hospital_that_lost_the_models_gets_them_and_the_walk_again(ward, kind):
    sums, local = ward.statistics(), ward.local()
    first, second, _ = program_of(ward.server.plan.model).layers[:3]
    changed = {first.weight: ward.states["gamma"][first.weight] * 2}
    for statistics in (sums, local):
        statistics.ask("walk", {}, ward.states["alpha"])
        statistics.ask("layer", {"name": first.name}, {})
    ward.hospitals[1].sums.session = None
    request = (kind, {"name": second.name} if kind == "layer" else {}, changed if kind == "layer" else {})
    assert_same(sums.ask(*request), local.ask(*request))
    assert ward.server.strategy.failures == []


def test_a_lost_walk_goes_on_with_the_entries_changed_before_it_was_lost(ward):
    sums, local = ward.statistics(), ward.local()
    first, second, third = program_of(ward.server.plan.model).layers[:3]
    for statistics in (sums, local):
        statistics.ask("walk", {}, ward.states["alpha"])
        statistics.ask("layer", {"name": first.name}, {})
        statistics.ask("layer", {"name": second.name}, {first.weight: ward.states["gamma"][first.weight] * 2})
    for hospital in ward.hospitals:
        hospital.sums.session = None
    assert_same(*(statistics.ask("layer", {"name": third.name}, {}) for statistics in (sums, local)))


def test_a_hospital_that_keeps_nothing_is_left_out(ward):
    def forget(message):
        ward.hospitals[0].sums.session = None

    ward.grid.before = forget
    found = ward.statistics().ask("moments", {}, {})
    assert float(found["images"]) == IMAGES["beta"] + IMAGES["gamma"]
    (failure,) = ward.server.strategy.failures
    assert (failure.site, failure.phase) == ("alpha", "sums")
    assert "keep its process running" in failure.reason


def spoil(name, fault):
    """Do ``fault(sums, name)`` to the sums that beta answers."""

    def after(reply):
        if reply.has_error() or "arrays" not in reply.content or reply.metadata.src_node_id != BETA:
            return
        sums = reply.content["arrays"].to_torch_state_dict()
        fault(sums, name)
        reply.content["arrays"] = type(reply.content["arrays"])(sums)

    return after


def not_finite(sums, name):
    sums[name].view(-1)[0] = float("nan")


def too_short(sums, name):
    sums[name] = sums[name].view(-1)[:-1]


def single_precision(sums, name):
    sums[name] = sums[name].float()


def missing(sums, name):
    del sums[name]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (not_finite, "not finite"),
        (too_short, "of shape"),
        (single_precision, "float32"),
        (missing, "lacks the tensor 'rows/"),
    ],
)
def test_sums_that_cannot_be_used_leave_their_hospital_out(ward, fault, words):
    name = f"rows/{layers(ward)[0]}" if fault is missing else f"0/{layers(ward)[0]}"
    ward.grid.after = spoil(name, fault)
    sums = ward.statistics()
    assert_same(sums.ask("moments", {}, {}), ward.local(["alpha", "gamma"]).ask("moments", {}, {}))
    ward.grid.after = lambda reply: None
    again = sums.ask("outer", {"layers": layers(ward)[:1]}, {})
    assert float(again["images"]) == IMAGES["alpha"] + IMAGES["gamma"]
    (failure,) = ward.server.strategy.failures
    assert failure.site == "beta"
    assert words in failure.reason


def test_a_hospital_that_fails_in_a_walk_is_in_no_later_sum(ward, monkeypatch):
    sums = ward.statistics()
    first, second = layers(ward)[:2]
    sums.ask("walk", {}, ward.states["alpha"])
    assert float(sums.ask("layer", {"name": first}, {})["images"]) == sum(IMAGES.values())
    monkeypatch.setattr(ward.hospitals[2].sums, "reply", lambda message: 1 / 0)
    assert float(sums.ask("layer", {"name": second}, {})["images"]) == IMAGES["alpha"] + IMAGES["beta"]
    monkeypatch.undo()
    assert float(sums.ask("moments", {}, {})["images"]) == IMAGES["alpha"] + IMAGES["beta"]
    (failure,) = ward.server.strategy.failures
    assert (failure.site, failure.reason) == ("gamma", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"federation": FederationOptions(quorum=3)},
            ("2", "3", "gamma", "ZeroDivisionError"),
        ),
        (
            {"federation": FederationOptions(on_failure="abort")},
            ("gamma", "hospital", "failed"),
        ),
    ],
)
def test_the_quorum_and_an_abort_end_the_fusion(open_ward, monkeypatch, changes, words):
    ward = open_ward(**changes)
    monkeypatch.setattr(ward.hospitals[2].sums, "reply", lambda message: 1 / 0)
    with refused(*words):
        ward.statistics().ask("moments", {}, {})


def test_a_small_share_and_other_classes_are_refused_by_the_hospital(open_ward, plan):
    ward = open_ward()
    found = ward.statistics(images=IMAGES | {"beta": 15}).ask("moments", {}, {})
    assert float(found["images"]) == IMAGES["alpha"] + IMAGES["gamma"]
    assert "at least 16 images" in ward.server.strategy.failures[0].reason
    with refused("3", "classes", "4"):
        open_ward(model=plan.model.model_copy(update={"n_classes": 4}))


def test_wrong_requests_are_sentences_at_the_server(ward):
    with refused("alhpa", "alpha"):
        ward.statistics(images={"alhpa": 20})
    with refused("features.0.weight", "lacks"):
        ward.statistics().ask("walk", {}, {"weight": torch.zeros(1)})


# --- what travels


def test_what_a_hospital_sends_has_the_same_shapes_whatever_its_images_are(ward):
    """Every array is a scalar, a vector over channels, or half or all of a matrix over channels and inputs.

    Shares of 19 and of 35 images give the same shapes, and no axis is as long as the images, their pixels
    (64 each), or the positions of a layer in all of them.
    """

    def shapes(images):
        ward.grid.shapes.clear()
        sums = ward.statistics(images=dict.fromkeys(NAMES, images))
        sums.ask("outer", {"layers": layers(ward)}, {})
        for kind, options in (("inputs", {}), ("importance", {"kind": "conductance"}), ("moments", {})):
            sums.ask(kind, options, {})
        sums.ask("walk", {}, ward.states["alpha"])
        for name in layers(ward):
            sums.ask("layer", {"name": name}, {})
            sums.ask("fused-moments", {"name": name}, {})
        return list(ward.grid.shapes)

    few, many = shapes(19), shapes(35)
    assert few == many
    assert {key for key, _ in few} >= {"gram", "cross", "outer", "moments", "rows", "images"}
    lengths = {length for _, shape in few for length in shape}
    for images in (19, 35):
        assert not lengths & {images * positions for positions in (1, 4, 16, 64)}


def test_traffic_counts_messages_and_bytes(ward):
    """Down: three models once, with the first request, of float32 numbers; up: outer as half matrices.

    The first request takes three exchanges (are the models there, the models, the request), the next one.
    """
    name = layers(ward)[0]
    width = ward.states["alpha"][f"{name}.weight"].shape[0] * len(NAMES)
    weights = len(NAMES) * sum(v.numel() * v.element_size() for v in ward.states["alpha"].values())
    sums = ward.statistics()
    sums.ask("outer", {"layers": [name]}, {})
    first = sums.traffic
    assert [row["site"] for row in first] == NAMES
    assert [row["exchanges"] for row in first] == [3, 3, 3]
    up = 8 * width * (width + 1) // 2
    overhead = 400 * len(NAMES) * len(ward.states["alpha"])  # keys, dtypes and shapes
    for row in first:
        assert weights < row["bytes_down"] < weights + overhead
        assert up < row["bytes_up"] < up + 1000
    sums.ask("outer", {"layers": [name]}, {})
    assert [row["exchanges"] for row in sums.traffic] == [4, 4, 4]


def test_the_models_are_not_sent_again_for_the_next_fusion(ward):
    ward.statistics().ask("moments", {}, {})
    sums = ward.statistics()
    sums.ask("moments", {}, {})
    (down, *_) = [row["bytes_down"] for row in sums.traffic]
    assert [row["exchanges"] for row in sums.traffic] == [2, 2, 2]
    assert down < 4000
    other = ward.statistics(parents={name: ward.states[name] for name in reversed(NAMES)})
    other.ask("moments", {}, {})
    assert [row["exchanges"] for row in other.traffic] == [3, 3, 3]
