"""What a hospital refuses to sum, and the noise on what it does sum."""

import math

import numpy as np
import pytest
import torch
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.federation import Hospital, LocalGrid, Server, client_app
from fedmerge.federation.hospital.sums.answer import program_of
from fedmerge.federation.hospital.sums.noise import add_noise, gaussian, request_digest
from fedmerge.federation.hospital.sums.rank import check_rows, effective_rows, reads_pixels
from fedmerge.federation.hospital.sums.rules import SIMULATED, SumRules, rules_of
from fedmerge.federation.hospital.sums.session_store import SessionStore
from fedmerge.merging import merge
from fedmerge.models import ModelSpec, build

IMAGES = {"alpha": 18, "beta": 20, "gamma": 17}


@pytest.fixture
def ask(plan, cohort):
    """Ask the sums of three hospitals; ``rules`` and ``folder`` make new hospitals each time."""

    def go(kind="moments", options=None, *, images=IMAGES, rules=None, folder=None, kept=None, tensors=None):
        def made(site):
            own = None if folder is None else folder / site.name
            return Hospital(site, folder=own, sum_rules=rules)

        hospitals = kept or [made(site) for site in cohort.training]
        app = client_app(lambda context: hospitals[int(context.node_config["partition-id"])])
        server = Server(LocalGrid(app, len(hospitals)), plan)
        states = {name: build(plan.model, seed).state_dict() for seed, name in enumerate(IMAGES)}
        sums = server.statistics(states, images, "train")
        if tensors is not None:
            sums.ask("walk", {}, tensors)
        return sums.ask(kind, options or {}, {}), server.strategy.failures

    return go


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


# --- sets


def test_one_image_more_is_refused_after_a_restart_and_the_others_go_on(ask, tmp_path):
    rules = SumRules(rows="off")
    ask(rules=rules, folder=tmp_path)
    found, failures = ask(
        "outer", {"layers": ["head"]}, images=IMAGES | {"beta": 21}, rules=rules, folder=tmp_path
    )
    assert float(found["images"]) == IMAGES["alpha"] + IMAGES["gamma"]
    (failure,) = failures
    assert failure.site == "beta"
    assert "1 of them could be told apart" in failure.reason
    again, failures = ask(rules=rules, folder=tmp_path)
    assert float(again["images"]) == sum(IMAGES.values())
    assert failures == []


def test_the_minimum_in_a_nodes_file_counts(tmp_path, cohort):
    assert rules_of(None) == SIMULATED
    assert rules_of(tmp_path) == SumRules()
    (tmp_path / "node.yaml").write_text("site: alpha\nsums: {minimum_images: 40}\n")
    hospital = Hospital(cohort["alpha"], folder=tmp_path)
    assert hospital.sums.rules == SumRules(minimum_images=40)
    assert Hospital(cohort["alpha"], minimum=50, folder=tmp_path).sums.rules.minimum_images == 50
    assert Hospital(cohort["alpha"], minimum=3, folder=tmp_path).sums.rules.minimum_images == 40
    (tmp_path / "node.yaml").write_text("sums: {minimum_image: 40}\n")
    with pytest.raises(FedMergeError, match="minimum_image"):
        Hospital(cohort["alpha"], folder=tmp_path)


def test_all_images_but_one_are_no_share(ask):
    """``share`` with -1 images would be all but one."""
    with refused("0", "3", "hospitals"):
        ask(images=IMAGES | {"alpha": -1})


# --- rows


@pytest.fixture
def net():
    def made(name, size, **options):
        spec = ModelSpec(name=name, in_channels=1, n_classes=3, image_size=size, options=options)
        return program_of(spec), build(spec, 0).state_dict()

    return made


def test_effective_rows_are_those_of_patches_that_do_not_overlap(net):
    """3 x 3 patches over 8 x 8 and, after pooling, 4 x 4 and 2 x 2; one row an image for the head."""
    program, state = net("small-cnn", 8, width=4)
    found = [effective_rows(layer, state) for layer in program.layers]
    assert found == pytest.approx([64 / 9, 16 / 9, 4 / 9, 1])
    assert [reads_pixels(program, layer) for layer in program.layers] == [True, False, False, False]
    whole, state = net("tiny-vit", 8, patch=8)
    assert effective_rows(whole.layers[0], state) == 1


@pytest.mark.parametrize(("kind", "options"), [("inputs", {}), ("layer", {"name": "patch_embed"})])
def test_fewer_images_than_pixels_are_refused_where_a_layer_reads_whole_images(net, kind, options):
    program, state = net("tiny-vit", 8, patch=8)
    with refused("64", "columns", "63"):
        check_rows(program, state, 3, kind, options, 63, "pixels")
    check_rows(program, state, 3, kind, options, 64, "pixels")
    check_rows(program, state, 3, kind, options, 63, "off")


def test_every_layer_counts_in_a_deployment(net, ask, tmp_path):
    """The third convolution has 72 columns and 4 / 9 rows an image: 162 images."""
    program, state = net("small-cnn", 8, width=4)
    check_rows(program, state, 3, "inputs", {}, 18, "pixels")
    with refused("162", "images"):
        check_rows(program, state, 3, "layer", {"name": program.layers[2].name}, 161, "every")
    check_rows(program, state, 3, "inputs", {}, 162, "every")
    with refused("0", "3", "hospitals"):
        ask("inputs", folder=tmp_path)


def test_pre_activations_of_many_models_have_no_more_columns_than_pixels_have(net):
    program, state = net("small-cnn", 8, width=4)
    first = {"layers": [program.layers[0].name]}
    check_rows(program, state, 50, "outer", first, 2, "pixels")  # 200 columns, of rank 9: 14 rows are enough
    with refused("200", "columns"):
        check_rows(program, state, 50, "outer", first | {"activation": "relu"}, 2, "pixels")


# --- noise


def test_noise_is_normal_and_differs_by_key():
    drawn = gaussian(bytes(32), 100_001)
    assert len(drawn) == 100_001
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 5 / math.sqrt(len(drawn))
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / len(drawn))
    assert abs((np.abs(drawn) < 1).mean() - 0.6827) < 0.01
    assert abs(np.corrcoef(drawn[:50_000], drawn[50_000:100_000])[0, 1]) < 0.03
    assert not np.array_equal(drawn, gaussian(b"1" * 32, 100_001))


def test_noise_has_the_deviation_that_is_stated():
    zeros = {"gram": torch.zeros(20_000, dtype=torch.float64), "images": torch.tensor(7.0)}
    noised = add_noise(zeros, {"gram": 3.0}, 0.5, b"seed")
    assert float(noised["gram"].std()) == pytest.approx(1.5, rel=0.05)
    assert float(noised["images"]) == 7


def test_one_image_changes_a_sum_by_no_more_than_its_bound(plan, cohort):
    """With a tiny clip each image's part has exactly the bound as its norm, whatever weights were sent."""
    hospital = Hospital(cohort["alpha"], sum_rules=SumRules(noise=1e-9, clip=1e-6, rows="off"))
    server = Server(LocalGrid(client_app(lambda _: hospital), 1), plan)
    state = build(plan.model, 0).state_dict()
    wild = {key: value * 1e6 if value.is_floating_point() else value for key, value in state.items()}
    sums = server.statistics({"alpha": wild}, {"alpha": 18}, "train").ask("outer", {"layers": ["head"]}, {})
    numbers = 3 * 4 // 2
    bound = 1e-6 * math.sqrt(numbers)
    assert float(sums["head"].triu().norm()) <= 18 * bound * 1.001
    assert float(sums["head"].triu().norm()) > bound  # they point into like directions
    assert float(sums["images"]) == 18


def test_without_clipping_little_noise_is_little(ask):
    exact, _ = ask("outer", {"layers": ["head"]})
    noised, _ = ask("outer", {"layers": ["head"]}, rules=SumRules(noise=1e-9, clip=1e6, rows="off"))
    for key, value in exact.items():
        assert torch.allclose(noised[key], value, rtol=1e-2, atol=1e-1), key
        assert key == "images" or not torch.equal(noised[key], value)


REQUESTS = [
    ("outer", {"layers": ["head"]}, False),
    ("moments", {}, False),
    ("layer", {"name": "head"}, True),
]


@pytest.mark.parametrize(("kind", "options", "walks"), REQUESTS)
def test_the_same_request_gets_the_same_noise_also_after_a_restart(ask, plan, tmp_path, kind, options, walks):
    rules = SumRules(noise=0.1, rows="off")
    tensors = build(plan.model, 5).state_dict() if walks else None
    first, _ = ask(kind, options, rules=rules, folder=tmp_path, tensors=tensors)
    again, _ = ask(kind, options, rules=rules, folder=tmp_path, tensors=tensors)
    assert_equal(again, first)
    other, _ = ask(kind, options, rules=rules, tensors=tensors)  # another hospital's key
    assert not any(
        torch.equal(other[key], first[key])
        for key in first
        if key not in ("images", "rows") and "rows" not in key
    )


def test_weights_that_differ_by_a_hair_get_other_noise_and_cost_again(plan, cohort):
    hospital = Hospital(cohort["alpha"], sum_rules=SumRules(noise=0.1, rows="off"))
    server = Server(LocalGrid(client_app(lambda _: hospital), 1), plan)

    def asked(shift):
        state = build(plan.model, 0).state_dict()
        state["head.weight"] = state["head.weight"] + shift
        return server.statistics({"alpha": state}, {"alpha": 18}, "train").ask(
            "outer", {"layers": ["head"]}, {}
        )

    first = asked(0.0)
    assert_equal(asked(0.0), first)
    assert hospital.sums.ledger.noised() == 1
    assert float((asked(1e-7)["head"] - first["head"]).abs().min()) > 1e-3
    assert hospital.sums.ledger.noised() == 2


def test_earlier_entries_changed_behind_a_walk_do_not_share_its_noise(plan, cohort):
    """Layer 3 was reached with the first weights; told to change those, it answers as before. A new walk with
    the changed weights gives other sums: with the same noise, their difference would be without any."""
    hospital = Hospital(cohort["alpha"], sum_rules=SumRules(noise=0.1, rows="off"))
    server = Server(LocalGrid(client_app(lambda _: hospital), 1), plan)
    state = build(plan.model, 0).state_dict()
    sums = server.statistics({"alpha": state}, {"alpha": 18}, "train")
    layers = program_of(plan.model).layers
    changed = {layers[0].weight: state[layers[0].weight] * 3}
    request = ("fused-moments", {"name": layers[2].name})
    sums.ask("walk", {}, state)
    sums.ask("layer", {"name": layers[1].name}, {})
    behind = sums.ask(*request, changed)["moments"]
    sums.ask("walk", {}, state | changed)
    anew = sums.ask(*request, {})["moments"]
    hospital.sums.rules = hospital.sums.rules.model_copy(update={"noise": 1e-12})
    sums.ask("walk", {}, state)
    sums.ask("layer", {"name": layers[1].name}, {})
    bare = sums.ask(*request, changed)["moments"]
    sums.ask("walk", {}, state | changed)
    bare_anew = sums.ask(*request, {})["moments"]
    assert float(((behind - anew) - (bare - bare_anew)).abs().max()) > 1e-2


def test_a_digest_is_of_every_part_of_a_question():
    weights = {"w": torch.zeros(4)}
    told = ("", "layer", {"name": "a"}, weights)
    others = [
        ("x", "layer", {"name": "a"}, weights),
        ("", "outer", {"name": "a"}, weights),
        ("", "layer", {"name": "b"}, weights),
        ("", "layer", {"name": "a"}, {"w": torch.tensor([0.0, 0, 0, 1e-30])}),
        ("", "layer", {"name": "a"}, {"w": torch.zeros(2, 2)}),
        ("", "layer", {"name": "a"}, {"w": torch.zeros(4, dtype=torch.int32)}),
        ("", "layer", {"name": "a"}, {"v": torch.zeros(4)}),
    ]
    digests = {request_digest(*request) for request in [told, *others]}
    assert len(digests) == 1 + len(others)


@pytest.mark.parametrize("method", ["hf", "rebasin", "regmean"])
@pytest.mark.parametrize("noise", [1.0])
def test_fusions_take_noised_sums(plan, cohort, tmp_path, method, noise):
    rules = SumRules(noise=noise, rows="off")
    sites = cohort.training

    def of(context):
        site = sites[int(context.node_config["partition-id"])]
        return Hospital(
            site,
            sum_rules=rules,
            session_store=SessionStore(tmp_path / site.name),
            folder=tmp_path / f"{site.name}-node",
        )

    server = Server(LocalGrid(client_app(of), len(sites)), plan)
    models = {name: build(plan.model, seed) for seed, name in enumerate(IMAGES)}
    states = {name: model.state_dict() for name, model in models.items()}
    result = merge(
        list(models.values()),
        method,
        names=list(models),
        data=torch.zeros(2, 1, 8, 8),
        statistics=server.statistics(states, IMAGES, "train"),
    )
    assert server.strategy.failures == []
    assert all(bool(value.isfinite().all()) for value in result.model.state_dict().values())
