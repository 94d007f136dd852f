import copy

import pytest
import torch
from torch import nn

from fedmerge.merging.matching.gradient import gradient_fusion
from fedmerge.merging.methods import FUSION, Context
from fedmerge.merging.parents import Parents
from fedmerge.models import ModelSpec, build
from fedmerge.models.graph import Program, find_neurons, permute, random_permutations
from tests.facts import refused

NETS = [
    ("small-cnn", {"width": 4, "norm": "none"}),
    ("small-cnn", {"width": 4, "norm": "batch"}),
    ("small-cnn", {"width": 4, "norm": "group"}),
    ("resnet18", {"width": 8}),
    ("tiny-vit", {"depth": 2, "dim": 16}),
]
DRAWS = torch.Generator().manual_seed(0)
X, UNSEEN = torch.randn(20, 1, 8, 8, generator=DRAWS), torch.randn(6, 1, 8, 8, generator=DRAWS)
Y = torch.arange(20) % 3


def net(name, options, seed):
    """A network whose batch norms have statistics and weights other than those they are made with."""
    made = build(ModelSpec(name=name, in_channels=1, n_classes=3, image_size=8, options=options), seed).eval()
    rng = torch.Generator().manual_seed(seed)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
            module.weight.data.uniform_(0.5, 2, generator=rng)
            module.bias.data.normal_(0, 0.2, generator=rng)
    return made


def mlp(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
        ).eval()


def permuted(model, seed=5):
    program = Program(model, X)
    neurons = find_neurons(program, program.values(model.state_dict()))
    other = copy.deepcopy(model)
    other.load_state_dict(permute(model.state_dict(), neurons, random_permutations(neurons, seed)))
    return other


def fuse(models, x=X, labels=None, **options):
    options = FUSION["kf-gradient"].check({"descent": {"epochs": 2}, **options})
    return gradient_fusion(Parents.of(models), Context(data=x, labels=labels, seed=1), **options)


def close(model, other):
    torch.testing.assert_close(model(UNSEEN), other(UNSEEN), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), NETS)
def test_a_model_with_itself_or_a_permuted_copy_keeps_its_function(name, options):
    """Clusters are the pairs of equal neurons, so targets are the model's own values and its weights, which
    every fit begins with or is pulled towards, leave no error; also on images that were not seen."""
    model = net(name, options, 0)
    close(fuse([model, model]).model, model)
    close(fuse([model, permuted(model)]).model, model)


@pytest.mark.parametrize("centroids", ["second", "first", "farthest"])
def test_three_permuted_copies_of_a_perceptron_are_one(centroids):
    model = mlp(0)
    models = [model, permuted(model, 1), permuted(model, 2)]
    close(fuse(models, clustering={"centroids": centroids}).model, model)


def test_the_fused_model_has_the_order_of_the_first():
    """With a permuted copy first, the copy's weights come out."""
    model = mlp(0)
    other = permuted(model)
    found = fuse([other, model]).model
    torch.testing.assert_close(found[1].weight, other[1].weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), [NETS[1], NETS[4]])
def test_same_seed_same_bits_and_nothing_else_changes(name, options):
    models = [net(name, options, seed) for seed in (0, 1)]
    before, drawn = {k: v.clone() for k, v in models[0].state_dict().items()}, torch.random.get_rng_state()
    first, second = (fuse(models, clustering={"centroids": "farthest"}) for _ in range(2))
    assert all(v.equal(second.model.state_dict()[k]) for k, v in first.model.state_dict().items())
    assert first.decisions == second.decisions
    assert all(v.equal(before[k]) for k, v in models[0].state_dict().items())
    assert torch.random.get_rng_state().equal(drawn)


def test_a_closed_form_meets_its_targets_where_it_can():
    """Two perceptrons, 300 images: at next to no ridge the fit of the first level, 64 inputs and a bias, is
    exact, for its targets are means of affine maps; the last level's residual is orthogonal to its inputs."""
    x = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    a, b = mlp(0), mlp(1)
    found = fuse([a, b], x, closed_form={"ridge": 1e-10})
    assert found.decisions[0]["loss"] < 1e-10
    inputs = found.model[:-1](x).double()
    rows = torch.cat([inputs, torch.ones(300, 1)], 1)
    residual = (found.model(x) - (a(x) + b(x)) / 2).double()
    assert (rows.T @ residual).abs().max() < 1e-3
    assert residual.square().mean().item() == pytest.approx(found.decisions[-1]["loss"], rel=1e-2)


def test_descent_goes_where_the_closed_form_is():
    """Two perceptrons: descent by Adam comes nearer to the mean logits, and the closed form is not worse."""
    x = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    models = [mlp(0), mlp(1)]
    mean = (models[0](x) + models[1](x)) / 2

    def error(**options):
        return float((fuse(models, x, **options).model(x) - mean).detach().square().mean())

    closed = error(closed_form={"ridge": 1e-9})
    slow = error(closed_form={"use": False}, descent={"epochs": 0})
    descended = error(closed_form={"use": False}, descent={"epochs": 60, "patience": 60, "lr": 1e-2})
    assert closed < descended < 0.5 * slow


def test_a_batch_norm_after_a_fitted_layer_only_shifts_and_has_the_moments_of_its_input():
    found = fuse([net(*NETS[1], 0), net(*NETS[1], 1)]).model.features
    scale = found[1].weight / (found[1].running_var + found[1].eps).sqrt()
    torch.testing.assert_close(scale, torch.ones(4))
    given = found[0](X).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found[1].running_mean, given.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1].running_var, given.var(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attribution", ["conductance", "deeplift", "ablation"])
def test_importance_weighs_the_targets(attribution):
    """Model 1 repeats model 0 but for a head ten times as large: its neurons matter ten times as much, unless
    scores are normalised. Equal neurons have equal means, and the logits are (1 z + 10 (10 z)) / 11; with
    scores of mean one both models count alike: (z + 10 z) / 2."""
    model = mlp(0)
    louder = copy.deepcopy(model)
    louder[5].weight.data *= 10
    louder[5].bias.data *= 10
    for normalisation, factor in (("none", 101 / 11), ("mean1", 5.5)):
        options = {"attribution": attribution, "normalisation": normalisation, "loss": {"levels": "weighted"}}
        found = fuse([model, louder], labels=Y, **options).model
        torch.testing.assert_close(found(UNSEEN), factor * model(UNSEEN), rtol=1e-3, atol=1e-3)


def test_the_log_says_what_was_done_level_by_level():
    found = fuse([net(*NETS[3], 0), net(*NETS[3], 1)], loss={"head": "kl"})
    assert [d["level"] for d in found.decisions] == list(range(10))
    assert found.decisions[0]["layers"] == ["conv1"]
    assert found.decisions[0]["fit"] == "closed form"
    assert found.decisions[1]["layers"] == ["layer1.0.conv1", "layer1.0.conv2"]
    assert {d["fit"] for d in found.decisions[1:]} == {"descent"}
    assert all(d["epochs"] == 2 for d in found.decisions[1:])
    assert found.decisions[-1]["loss"] >= 0


def test_levels_of_one_residual_stream_share_their_clusters():
    """conv1 and two blocks write the first stream, so as many of their neurons are of both models."""
    found = fuse([net(*NETS[3], 0), net(*NETS[3], 1)], descent={"epochs": 0}).decisions
    assert len({d["of_several_models"] for d in found[:3]}) == 1


def test_faults_are_sentences_and_needs_are_known():
    with refused("least", "kf-gradient"):
        gradient_fusion(Parents.of([mlp(0)]), Context())
    with refused("each", "image", "20 images"):
        fuse([mlp(0), mlp(1)], attribution="conductance")
    method = FUSION["kf-gradient"]
    assert method.needs_with({}).names() == ["individual models", "fusion images"]
    assert "fusion labels" in method.needs_with({"attribution": "deeplift"}).names()
