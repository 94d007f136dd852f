import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fedmerge.merging import FUSION, merge
from fedmerge.models import ModelPool, ModelSpec, Normalisation, build
from fedmerge.models.loading import network_of
from tests.facts import refused

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})
TRAINED = ("distill", "refit-head")  # they fit to the ensemble's answers, so they move even a lone model
QUICK = {name: {"descent": {"epochs": 1}} for name in ("kf-gradient", "distill")}


@pytest.fixture
def pool(tmp_path):
    pool = ModelPool(tmp_path / "pool")
    for seed, name in enumerate("abc"):
        pool.add(
            name,
            build(SPEC, seed).state_dict(),
            model=SPEC,
            normalisation=Normalisation.named("half"),
            class_names=("x", "y", "z"),
            method="initialisation",
        )
    return pool


def images(n=12):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 3


@pytest.mark.parametrize("method", FUSION.names())
def test_every_method_gives_the_same_from_disk_as_from_memory(pool, method):
    x, y = images()
    given = {"data": x, "labels": y, "start": build(SPEC, 9), **QUICK.get(method, {})}
    disk = merge(pool, method, **given)
    memory = merge([pool.model(name) for name in pool], method, names=pool.names, **given)
    assert disk.coefficients == memory.coefficients
    assert disk.model(x).equal(memory.model(x))


def test_the_mean_of_a_pool_builds_one_network(pool, monkeypatch):
    """Its result; the result's weights are its own, and it can be trained."""
    built = []

    def watched(*given):
        built.append(network_of(*given))
        return built[-1]

    monkeypatch.setattr("fedmerge.merging.parents.network_of", watched)
    fused = merge(pool, "mean").model
    assert len(built) == 1
    assert fused is built[0]
    assert all(parameter.requires_grad for parameter in fused.parameters())
    lone = merge(pool.subset("a"), "mean").model
    for value in lone.state_dict().values():
        value.zero_()
    pool.verify()


@pytest.mark.parametrize("method", [name for name in FUSION.names() if name not in TRAINED])
def test_a_model_merged_with_itself_is_itself(pool, method):
    """Also where nothing was trained since the start: task vectors are zero then."""
    net = pool.model("a")
    x, y = images()
    given = {"data": x, "labels": y, "start": net, **QUICK.get(method, {})}
    fused = merge([net, net], method, **given).model
    expected = net(x).log_softmax(1) if method == "ensemble-probabilities" else net(x)
    torch.testing.assert_close(fused(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", FUSION.names())
def test_inputs_and_random_state_stay_as_they_were(pool, method):
    nets = [pool.model(name) for name in pool]
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    x, y = images()
    random = torch.get_rng_state()
    merge(nets, method, data=x, labels=y, start=build(SPEC, 9), **QUICK.get(method, {}))
    assert torch.get_rng_state().equal(random)
    for net, state in zip(nets, before, strict=True):
        assert all(net.state_dict()[key].equal(value) for key, value in state.items())


def test_a_loader_is_as_good_as_a_tensor(pool):
    x, y = images()
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    nets = [pool.model(name) for name in pool]
    whole = merge(nets, "greedy", data=x, labels=y)
    batched = merge(nets, "greedy", data=loader)
    assert batched.decisions == whole.decisions
    unlabelled = merge(nets, "kf", data=[x[:6], x[6:]]).model
    assert unlabelled(x).equal(merge(nets, "kf", data=x).model(x))


def test_what_a_method_needs_is_said_before_it_starts(pool):
    nets = [pool.model(name) for name in pool]
    x, _ = images()
    for method, options, words in [
        ("kf", {}, ("data=", "statistics=", "kf")),
        ("distill", {}, ("data=", "distill", "fusion", "needs")),
        ("ties", {}, ("start=", "ties")),
        ("hf", {"data": x, "attribution": "conductance"}, ("labels=", "hf")),
        ("greedy", {"data": x}, ("validation", "greedy")),
    ]:
        with refused(*words):
            merge(nets, method, **options)


def test_faults_are_sentences(pool, nets):
    other = build(SPEC.model_copy(update={"options": {"width": 8}}), 0)
    a = pool.model("a")
    x, _ = images()
    broken = pool.model("b")
    with torch.no_grad():
        broken.features[0].weight[0, 0, 0, 0] = float("nan")
    for models, method, options, words in [
        (nets, "maen", {}, ("maen", "mean")),
        (nets, "mean", {"weigths": [1, 2, 3]}, ("weigths", "weights")),
        ([], "mean", {}, ("merge", "model")),
        ([a, other], "mean", {}, ("architecture", "features.0.weight")),
        ([a, other], "rebasin", {"data": x}, ("architecture", "features.0.weight")),
        ([a, broken], "kf", {"data": x}, ("model-1", "NaN", "features.0.weight")),
        ([a, a], "kf", {"data": x.fill_(float("inf"))}, ("data=", "NaN")),
        ([a, a], "kf", {"data": []}, ("data=", "gave", "batch")),
        ([a, a], "ties", {"start": other}, ("architecture", "features.0.weight")),
        ([a, a], "mean", {"after": "repare", "data": images()[0]}, ("repare", "none")),
        ([a, a], "mean", {"after": "repair"}, ("data=",)),
        ([a, a], "ensemble-logits", {"after": "repair", "data": images()[0]}, ("several", "network")),
    ]:
        with refused(*words):
            merge(models, method, **options)
    with refused("8 images", 2):
        merge(nets, "greedy", data=torch.rand(8, 1, 1, 2), labels=torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({"batch_norm": "mixtur"}, ("batch_norm", "mixture")),  # was taken for "average"
        ({"device": "cud"}, ("device", "cud", "cpu")),
        ({"examples": [-1, 3], "weights": "samples"}, ("examples=", "-1")),  # weights of -1/2 and 3/2
        ({"examples": [float("nan"), 3]}, ("examples=", "nan")),
        ({"weights": [1e308, 1e308]}, ("weights", "finite")),
        ({"seed": 0.5}, ("seed", 0.5)),
    ],
    ids=str,
)
def test_what_would_be_taken_for_something_else_is_refused(given, facts):
    method = "dare" if "seed" in given else "mean"
    with refused(*facts):
        merge([build(SPEC, 0), build(SPEC, 1)], method, start=build(SPEC, 2), **given)


def test_the_layers_of_one_network_are_not_merged():
    """A Sequential is a sequence of modules, too."""
    one = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    with refused("Sequential", "list"):
        merge(one, "mean")
    nets = [build(SPEC, 0), build(SPEC, 1)]
    expected = merge(nets, "mean").model.state_dict()
    for several in (torch.nn.ModuleList(nets), iter(nets), tuple(nets)):
        found = merge(several, "mean").model.state_dict()
        assert all(found[key].equal(expected[key]) for key in expected)
