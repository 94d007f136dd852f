import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedmerge.models.graph import Neurons, Program, check_neurons, find_neurons, permute, random_permutations
from tests.facts import refused

NAMES = [
    *("mlp", "cnn", "small-cnn", "small-cnn group norm", "vgg11", "resnet18", "resnet18 group norm"),
    *("tiny-vit", "tiny-vit mean", "efficientnet-lite0", "torchvision resnet18", "torchvision vgg11"),
    *("torchvision vit", "torchvision shufflenet", "torchvision mobilenet", "torchvision densenet"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_network_with_all_its_neurons_permuted_gives_the_same_outputs(name, followed):
    """The model itself, in float64, with the permuted weights: the program has no part in the outputs."""
    net = followed(name)
    neurons = find_neurons(net.program, net.values)
    permutations = random_permutations(neurons, 4)
    moved = permute(net.state, neurons, permutations)
    model, images = copy.deepcopy(net.model).double(), net.images.double()
    with torch.no_grad():
        expected = model(images)
        model.load_state_dict(moved)
        found = model(images)
    assert not neurons.unsupported
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    first = net.program.layers[0].weight
    assert not torch.equal(moved[first], net.state[first])
    check_neurons(net.program, net.state, neurons)


def test_each_neuron_goes_where_the_permutation_says(followed):
    """Neuron p[k] of the hidden layer comes to place k: rows of the first layer, columns of the second."""
    net = followed("mlp")
    neurons = find_neurons(net.program, net.values)
    p = torch.tensor([3, 1, 0, 2, 4, 9, 5, 6, 7, 8])
    moved = permute(net.state, neurons, {0: p})
    assert torch.equal(moved["1.weight"], net.state["1.weight"][p])
    assert torch.equal(moved["1.bias"], net.state["1.bias"][p])
    assert torch.equal(moved["3.weight"], net.state["3.weight"][:, p])
    assert torch.equal(moved["3.bias"], net.state["3.bias"])


def test_a_channel_takes_all_its_pixels_along_through_a_flattening(followed):
    """Channel c of 6 x 6 pixels stands at columns 36 c … 36 c + 35 of the linear layer."""
    net = followed("cnn")
    p = torch.tensor([5, 0, 1, 2, 3, 4])
    moved = permute(net.state, find_neurons(net.program, net.values), {0: p})
    columns = net.state["4.weight"].reshape(-1, 6, 36)
    assert torch.equal(moved["4.weight"], columns[:, p].flatten(1))
    assert torch.equal(moved["1.running_var"], net.state["1.running_var"][p])


def test_groups_that_are_not_named_stay_and_the_state_is_not_changed(followed):
    net = followed("vgg11")
    neurons = find_neurons(net.program, net.values)
    before = {key: value.clone() for key, value in net.state.items()}
    moved = permute(net.state, neurons, {2: torch.arange(neurons.groups[2].size).flip(0)})
    changed = [key for key in moved if not torch.equal(moved[key], net.state[key])]
    named = {
        key for key, dims in neurons.axes.items() if any(p.group == 2 for ps in dims.values() for p in ps)
    }
    assert changed
    assert set(changed) <= named
    assert all(torch.equal(before[key], net.state[key]) for key in before)


def test_random_permutations_respect_blocks_and_strands_and_repeat_with_the_seed(followed):
    net = followed("tiny-vit")
    neurons = find_neurons(net.program, net.values)
    permutations = random_permutations(neurons, 7)
    for index, group in enumerate(neurons.groups):
        p = permutations[index]
        assert torch.equal(p.sort().values, torch.arange(group.size))
        assert torch.equal(group.strand[p], group.strand)
        if group.block is not None:
            for block in torch.unique(group.block):
                assert len(torch.unique(group.block[p][group.block == block])) == 1
    again, other = random_permutations(neurons, 7), random_permutations(neurons, 8)
    assert all(torch.equal(permutations[i], again[i]) for i in permutations)
    assert any(not torch.equal(permutations[i], other[i]) for i in permutations)


def test_the_check_names_a_group_that_was_derived_wrongly(followed):
    """The columns of the last layer are left out: hidden neurons move, and nothing follows them."""
    net = followed("mlp")
    right = find_neurons(net.program, net.values)
    wrong = Neurons(right.groups, {key: dims for key, dims in right.axes.items() if key != "3.weight"}, ())
    with refused("'1'", "Sequential", "greedy"):
        check_neurons(net.program, net.state, wrong)


def test_the_check_sees_heads_that_are_torn_apart(followed):
    net = followed("torchvision vit")
    right = find_neurons(net.program, net.values)
    groups = tuple(replace(group, block=None) for group in right.groups)
    with refused("encoder.layers.encoder_layer_0.self_attention", "VisionTransformer"):
        check_neurons(net.program, net.state, replace(right, groups=groups))


def test_the_check_sees_through_a_head_of_zeros():
    """Before training: zeros in the last layer hide the hidden neurons, and equal biases hide each other."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    nn.init.zeros_(model[3].weight)
    nn.init.zeros_(model[1].bias)
    program, state = Program(model, torch.rand(2, 4)), model.state_dict()
    right = find_neurons(program, program.values(state))
    check_neurons(program, state, right)
    for key in ("1.weight", "1.bias", "3.weight"):
        wrong = replace(right, axes={k: dims for k, dims in right.axes.items() if k != key})
        with refused("'1'", "neurons", "Sequential"):
            check_neurons(program, state, wrong)


def test_the_check_refuses_what_could_not_be_followed(followed):
    net = followed("mlp")
    right = find_neurons(net.program, net.values)
    with refused("here", "greedy"):
        check_neurons(net.program, net.state, replace(right, unsupported=("the operation xyz in 'here'",)))
