import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedmerge.models.graph import Program, find_neurons
from tests.facts import refused

IMAGES = torch.rand(2, 3, 4, 4)


def derive(model, images=IMAGES):
    program = Program(model.eval(), images)
    return find_neurons(program, program.values(model.state_dict()))


def places(neurons, group):
    """Where a group stands: {(key, dim): positions of its neurons, one row each}."""
    return {
        (key, dim): part.positions.tolist()
        for key, dims in neurons.axes.items()
        for dim, parts in dims.items()
        for part in parts
        if part.group == group
    }


class Net(nn.Module):
    """Named modules and a forward pass."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def test_a_perceptron_by_hand(followed):
    """48 -> 10 -> 5: ten hidden neurons are rows of the first layer and columns of the second; no other."""
    net = followed("mlp")
    neurons = find_neurons(net.program, net.values)
    (group,) = neurons.groups
    assert (group.name, group.size, group.block) == ("1", 10, None)
    each = [[i] for i in range(10)]
    assert places(neurons, 0) == {("1.weight", 0): each, ("1.bias", 0): each, ("3.weight", 1): each}


def test_a_small_residual_network_by_hand():
    """stem 3 -> 2, a block 2 -> 3 -> 2 added to its input, mean over pixels, 2 -> 5.

    The stream is one group of 2 (stem's and second convolution's rows, first's and the head's columns); the
    3 channels inside the block are another. What the head gives does not move.
    """
    model = Net(
        lambda m, x: m.head((y := m.stem(x)).add(m.two(F.relu(m.one(y)))).mean((2, 3))),
        stem=nn.Conv2d(3, 2, 1),
        one=nn.Conv2d(2, 3, 1),
        two=nn.Conv2d(3, 2, 1, bias=False),
        head=nn.Linear(2, 5),
    )
    neurons = derive(model)
    two, three = [[0], [1]], [[0], [1], [2]]
    assert [(g.name, g.size, g.block) for g in neurons.groups] == [("stem", 2, None), ("one", 3, None)]
    assert places(neurons, 0) == {
        ("stem.weight", 0): two,
        ("stem.bias", 0): two,
        ("one.weight", 1): two,
        ("two.weight", 0): two,
        ("head.weight", 1): two,
    }
    assert places(neurons, 1) == {("one.weight", 0): three, ("one.bias", 0): three, ("two.weight", 1): three}


def test_two_branches_side_by_side_by_hand():
    """3 -> 2 and 3 -> 2, concatenated, 4 -> 5: each branch is a group; the second has columns 2 and 3."""
    model = Net(
        lambda m, x: m.head(torch.cat([m.left(x), m.right(x)], 1).mean((2, 3))),
        left=nn.Conv2d(3, 2, 1),
        right=nn.Conv2d(3, 2, 1),
        head=nn.Linear(4, 5),
    )
    neurons = derive(model)
    assert [g.size for g in neurons.groups] == [2, 2]
    assert places(neurons, 0)["head.weight", 1] == [[0], [1]]
    assert places(neurons, 1)["head.weight", 1] == [[2], [3]]


@pytest.mark.parametrize("name", ["resnet18", "torchvision resnet18"])
def test_the_residual_stream_of_a_stage_is_one_group(name, followed):
    """Four stages of 64, 128, 256, 512 channels and one group inside each of the eight blocks: 12."""
    net = followed(name)
    groups = find_neurons(net.program, net.values).groups
    assert sorted(g.size for g in groups) == sorted(3 * [64, 128, 256, 512])
    assert all(g.block is None and len(torch.unique(g.strand)) == 1 for g in groups)


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "tiny-vit", "torchvision mobilenet"])
def test_inputs_and_outputs_never_move(name, followed):
    net = followed(name)
    axes = find_neurons(net.program, net.values).axes
    first, last = net.program.layers[0], net.program.layers[-1]
    assert not axes[first.weight].get(1)
    assert not axes[last.weight].get(0)
    assert not axes[last.bias].get(0)


def test_a_head_of_attention_is_a_block_of_two_strands(followed):
    """16 wide, 4 heads: a block holds 4 query-key neurons and 4 value neurons; a query moves with its key."""
    net = followed("torchvision vit")
    neurons = find_neurons(net.program, net.values)
    (index, group), *_ = [(i, g) for i, g in enumerate(neurons.groups) if g.block is not None]
    assert group.size == 32
    counts = torch.zeros(4, 2)
    strands = torch.unique(group.strand).tolist()
    for block, strand in zip(group.block.tolist(), group.strand.tolist(), strict=True):
        counts[block, strands.index(strand)] += 1
    assert counts.tolist() == 4 * [[4, 4]]
    positions = sorted(
        tuple(row)
        for part in neurons.axes["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"][0]
        if part.group == index
        for row in part.positions.tolist()
    )
    assert positions == [(i, i + 16) for i in range(16)] + [(i,) for i in range(32, 48)]


def test_the_groups_of_group_norm_are_blocks():
    """6 channels in 3 groups of 2."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(3, 6), nn.Flatten(), nn.Linear(96, 5))
    (group,) = derive(model).groups
    assert group.block.tolist() == [0, 0, 1, 1, 2, 2]


def test_channels_that_take_different_ways_do_not_mix():
    """Half of the channels go through a ReLU, half through a sigmoid, and all through one layer after."""
    model = Net(
        lambda m, x: m.head(torch.cat([(y := m.stem(x).mean((2, 3)))[:, :2].relu(), y[:, 2:].sigmoid()], 1)),
        stem=nn.Conv2d(3, 4, 1),
        head=nn.Linear(4, 5),
    )
    neurons = derive(model)
    assert [g.size for g in neurons.groups] == [2, 2]
    assert not neurons.unsupported


def test_channels_that_meet_a_fixed_pattern_do_not_move():
    """A table that is no weight is added to the channels; one number for all of them ties nothing."""
    table = Net(
        lambda m, x: m.head(m.stem(x).mean((2, 3)) + torch.tensor([1.0, 2.0])),
        stem=nn.Conv2d(3, 2, 1),
        head=nn.Linear(2, 5),
    )
    number = Net(
        lambda m, x: m.head(m.stem(x).mean((2, 3)) + torch.tensor([3.0])),
        stem=nn.Conv2d(3, 2, 1),
        head=nn.Linear(2, 5),
    )
    assert derive(table).groups == ()
    assert [g.size for g in derive(number).groups] == [2]


def test_a_gate_that_all_channels_share_does_not_move():
    """Two gates, one for each of two branches: they stand in the same tensors, but may not change places."""
    model = Net(
        lambda m, x: m.head(
            m.left(y := x.mean((2, 3))) * (g := m.gate(y))[:, :1] + m.right(y) * g[:, 1:],
        ),
        left=nn.Linear(3, 4),
        right=nn.Linear(3, 4),
        gate=nn.Linear(3, 2),
        head=nn.Linear(4, 5),
    )
    neurons = derive(model)
    assert [(g.name, g.size) for g in neurons.groups] == [("left", 4)]
    assert "gate.weight" not in neurons.axes or not neurons.axes["gate.weight"].get(0)


def test_a_grouped_convolution_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.Flatten(), nn.Linear(128, 5))
    neurons = derive(model)
    assert neurons.unsupported == ("a convolution of 4 groups in '1'",)
    assert neurons.groups == ()


def test_attention_written_by_hand_is_named():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            return (q @ k.transpose(-1, -2)).softmax(-1) @ v

    model = Net(
        lambda m, x: m.head(m.attention(m.stem(x).flatten(2).transpose(1, 2)).mean(1)),
        stem=nn.Conv2d(3, 4, 1),
        attention=Attention(),
        head=nn.Linear(4, 5),
    )
    neurons = derive(model)
    assert neurons.unsupported == ("the operation matmul in 'attention'",)
    assert [g.size for g in neurons.groups] == [4]  # the stem's channels, before the attention


def test_a_weight_that_is_computed_is_named():
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    neurons = derive(nn.Sequential(nn.Conv2d(3, 4, 4), nn.Flatten(), linear, nn.ReLU(), nn.Linear(4, 5)))
    assert neurons.unsupported == ("a weight that is computed in the forward pass in '2'",)
    assert neurons.groups == ()


def test_a_layer_called_twice_is_refused():
    model = Net(
        lambda m, x: m.head(m.twice(m.twice(x.mean((2, 3))))),
        twice=nn.Linear(3, 3),
        head=nn.Linear(3, 5),
    )
    with refused("twice", "Net", "2 times"):
        derive(model)


def test_a_layer_with_weights_that_no_rule_knows_is_named() -> None:
    """Nothing before an LSTM can move, but its own neurons can; they are not averaged in silence."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    model = Recurrent().eval()
    program = Program(model, torch.rand(2, 4, 8))
    assert find_neurons(program, program.values(model.state_dict())).unsupported == (
        "the operation lstm in 'rnn'",
    )
