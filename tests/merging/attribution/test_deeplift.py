import pytest
import torch
from torch import nn

from fedmerge.merging.attribution import importance
from fedmerge.merging.attribution.deeplift import attributions
from fedmerge.models import ModelSpec, build
from fedmerge.models.graph import Program, levels
from tests.facts import refused

NETS = [
    ("small-cnn", {"width": 4, "norm": "none"}),
    ("small-cnn", {"width": 4, "norm": "batch"}),
    ("small-cnn", {"width": 4, "norm": "group"}),
    ("resnet18", {"width": 4}),
    ("tiny-vit", {"depth": 2, "dim": 8, "heads": 2}),
]


@pytest.mark.parametrize(("name", "options"), NETS)
def test_contributions_add_up_to_the_difference_of_the_logits(name, options):
    """Completeness: over every value that cuts the network in two, sum = z_y(x) - z_y(0)."""
    spec = ModelSpec(name=name, in_channels=1, n_classes=3, image_size=8, options=options)
    net = build(spec, 0).eval().double()
    for parameter in net.parameters():  # so that biases take part
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    x, y = (
        torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double(),
        torch.tensor([0, 1, 2, 0]),
    )
    program = Program(net, x)
    nodes = {str(i): level.stop for i, level in enumerate(levels(program))}
    found = attributions(program, program.values(net.state_dict()), x, y, nodes)
    with torch.no_grad():
        difference = (net(x) - net(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
    for value in found.values():
        torch.testing.assert_close(value.flatten(1).sum(1), difference, rtol=1e-7, atol=1e-8)


def test_one_rectified_neuron_by_hand():
    """h = 2 x - 1, z_0 = 3 relu(h). At x = 2: h from -1 to 3, relu from 0 to 3, so the slope is 3/4, the
    multiplier of h is 9/4 and its contribution 9/4 * 4 = 9 (the gradient would say 12)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2, bias=False)).eval()
    with torch.no_grad():
        net[1].weight.fill_(2.0)
        net[1].bias.fill_(-1.0)
        net[3].weight.copy_(torch.tensor([[3.0], [0.0]]))
    x = torch.full((1, 1, 1, 1), 2.0)
    found = importance(Program(net, x), net.state_dict(), x, torch.tensor([0]), "deeplift")
    assert found["1"].item() == pytest.approx(9.0)


def test_it_is_captums_layer_deeplift_where_activations_are_modules_called_once():
    captum = pytest.importorskip("captum.attr")
    spec = ModelSpec(
        name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4, "norm": "none"}
    )
    net = build(spec, 0).eval()
    x, y = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    found = importance(Program(net, x), net.state_dict(), x, y, "deeplift")
    modules = dict(net.named_modules())
    for name in ("features.0", "features.4", "features.8"):
        theirs = captum.LayerDeepLift(net, modules[name]).attribute(x, torch.zeros_like(x), target=y).detach()
        torch.testing.assert_close(found[name], theirs.abs().sum((0, 2, 3)).double(), rtol=1e-4, atol=1e-6)


def test_an_operation_without_a_rule_is_a_sentence():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(torch.cumsum(self.first(x.flatten(1)), 1).sin())

    x = torch.randn(2, 1, 2, 2)
    with refused("cumsum", "DeepLIFT"):
        importance(Program(Odd().eval(), x), Odd().state_dict(), x, torch.tensor([0, 1]), "deeplift")
