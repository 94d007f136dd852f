import pytest
import torch
from torch import nn

from fedmerge.merging.controls import distill, refit_head
from fedmerge.merging.fitting import Descent
from fedmerge.merging.methods import Context
from fedmerge.merging.parents import Parents
from fedmerge.models import ModelSpec, build
from tests.facts import refused

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})
X = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CONTROLS = [(distill, {}), (distill, {"student": "mean"}), (refit_head, {}), (refit_head, {"fit": "ridge"})]


def fused(control, nets, **options):
    quick = {} if options.get("fit") == "ridge" else {"descent": Descent(epochs=15, lr=1e-2)}
    return control(Parents.of(nets), Context(data=X, seed=3), **quick, **options)


@pytest.fixture
def two():
    return [build(SPEC, seed).eval() for seed in (0, 1)]


def distance(net, targets):
    return float((net(X).softmax(1) - targets).detach().abs().mean())


@pytest.mark.parametrize(("control", "options"), CONTROLS)
def test_the_student_comes_nearer_to_the_mean_of_its_teachers(two, control, options):
    targets = (two[0](X).softmax(1) + two[1](X).softmax(1)) / 2
    found = fused(control, two, **options)
    assert distance(found.model, targets) < 0.8 * distance(two[0], targets)
    assert found.coefficients == {"model-0": 0.5, "model-1": 0.5}
    assert not found.model.training


@pytest.mark.parametrize(("control", "options"), CONTROLS)
def test_a_model_with_itself_stays_and_no_input_nor_global_state_changes(two, control, options):
    before, drawn = {k: v.clone() for k, v in two[0].state_dict().items()}, torch.random.get_rng_state()
    same = fused(control, [two[0], two[0]], **options).model
    torch.testing.assert_close(same(X), two[0](X))
    assert all(value.equal(before[key]) for key, value in two[0].state_dict().items())
    assert torch.random.get_rng_state().equal(drawn)


@pytest.mark.parametrize(("control", "options"), CONTROLS)
def test_same_seed_same_bits(two, control, options):
    first, second = (fused(control, two, **options).model.state_dict() for _ in range(2))
    assert all(value.equal(second[key]) for key, value in first.items())


def test_a_refitted_head_leaves_the_encoder(two):
    found = fused(refit_head, two).model.state_dict()
    changed = {key for key, value in two[0].state_dict().items() if not value.equal(found[key])}
    assert changed == {"head.weight", "head.bias"}


def test_a_head_by_ridge_is_least_squares(two):
    """30 images, 17 columns: at a tiny ridge the residual is orthogonal to the features."""
    net = fused(refit_head, two, fit="ridge", ridge=1e-12).model.double()
    features = net.features(X.double())
    rows = torch.cat([features, torch.ones(30, 1)], 1)
    residual = net(X.double()) - (two[0](X) + two[1](X)) / 2
    assert (rows.T @ residual).abs().max() < 1e-4 * rows.abs().sum()


def test_faults_are_sentences(two):
    with refused("least", "distill"):
        distill(Parents.of(two), Context(data=X[:1]))
    with refused("least", "refit-head"):
        refit_head(Parents.of(two), Context())

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = (
                nn.Conv2d(1, 4, 3),
                nn.Sequential(nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1)),
            )

        def forward(self, x):
            return self.head(self.encoder(x)).flatten(1)

    with refused("linear", "head"):
        fused(refit_head, [Pooled().eval(), Pooled().eval()], fit="ridge")
