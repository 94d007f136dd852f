import pytest
import torch
from torch import nn

from fedmerge.merging.attribution import importance
from fedmerge.merging.attribution.conductance import attributions
from fedmerge.models import ModelSpec, build
from fedmerge.models.graph import Program, levels


def small(norm="batch"):
    return build(ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8,
                           options={"width": 4, "norm": norm}), 0).eval().double()  # fmt: skip


X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 1, 2, 0, 1])


def test_it_is_captums_layer_conductance():
    """Ours folds the batch norm into a layer's value, so captum is asked for the norm's output."""
    captum = pytest.importorskip("captum.attr")
    net = small()
    found = importance(Program(net, X), net.state_dict(), X, Y, "conductance", batch_size=2)
    layers = dict(net.named_modules())
    for name, module in [("features.0", "features.1"), ("features.4", "features.5"), ("head", "head")]:
        theirs = captum.LayerConductance(net, layers[module]).attribute(X, target=Y, n_steps=10).detach()
        sums = theirs.abs().sum([d for d in range(theirs.ndim) if d != 1])
        torch.testing.assert_close(found[name], sums.sum(0) if sums.ndim > 1 else sums)


def test_many_steps_add_up_to_the_difference_of_the_logits():
    """A level's end cuts the network in two: the sum of its attributions tends to z_y(x) - z_y(0)."""
    net = small("none")
    program = Program(net, X)
    with torch.no_grad():
        difference = (net(X) - net(torch.zeros_like(X))).gather(1, Y[:, None])[:, 0]
    nodes = {str(i): level.stop for i, level in enumerate(levels(program))}
    found = attributions(program, program.values(net.state_dict()), X, Y, nodes, steps=400)
    for value in found.values():
        torch.testing.assert_close(value.flatten(1).sum(1), difference, rtol=0.02, atol=0.005)


def test_a_layer_asked_for_alone_gets_the_same():
    net = small()
    program = Program(net, X)
    values = program.values(net.state_dict())
    nodes = {layer.name: layer.output for layer in program.layers}
    together = attributions(program, values, X, Y, nodes)
    for name, node in nodes.items():
        assert attributions(program, values, X, Y, {name: node})[name].equal(together[name])


def test_an_activation_that_writes_in_place_does_not_disturb():
    torch.manual_seed(0)
    kept = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    inplace = nn.Sequential(nn.Flatten(), kept[1], nn.ReLU(inplace=True), kept[3])
    for kind in ("conductance", "deeplift", "ablation"):
        first, second = (
            importance(Program(net, X), net.state_dict(), X, Y, kind) for net in (kept.eval(), inplace.eval())
        )
        assert all(first[name].equal(second[name]) for name in first)
