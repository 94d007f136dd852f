import copy

import pytest
import torch
from facts import refused
from torch import nn
from torch.nn import functional as F

from fedmerge.errors import FedMergeError
from fedmerge.models.graph import Program, Run

VECTORS = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A layer 4 -> 3 and what a function makes of it."""

    def __init__(self, forward):
        super().__init__()
        self.one = nn.Linear(4, 3)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def outputs(model, x, dtype=torch.float32):
    """The program's outputs and the model's."""
    program = Program(model, VECTORS)
    wide = copy.deepcopy(model).to(dtype).eval()
    with torch.no_grad():
        return program.run(program.values(wide.state_dict()), x.to(dtype)), wide(x.to(dtype))


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["cnn", "small-cnn", "tiny-vit", "torchvision vit", "torchvision mobilenet"])
def test_a_run_gives_the_models_outputs_whatever_the_number_of_images(name, batch, followed):
    net = followed(name)
    images = torch.rand(batch, *net.images.shape[1:], generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = net.model(images)
        found = net.program.run(net.values, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _writes_in_place(m, x):
    y = m.one(x)
    return F.relu_(y) + y


def _writes_through_a_view(m, x):
    y = m.one(x)
    rest = y[:, 1:]
    y[:, 0] = 5.0
    rest.mul_(2)
    return y + y.reshape(-1).mul_(3).reshape(y.shape)


def _writes_beside_a_view(m, x):
    y = m.one(x)
    same = y.flatten(1)
    y.add_(1)
    return same * 2


def _writes_its_input(m, x):
    return m.one(F.relu_(x.flatten(1)))


@pytest.mark.parametrize(
    "forward", [_writes_in_place, _writes_through_a_view, _writes_beside_a_view, _writes_its_input]
)
def test_operations_in_place_give_the_models_outputs_and_leave_batch_and_weights_alone(forward):
    model = Net(forward)
    x = VECTORS - 0.5
    weights = copy.deepcopy(model.state_dict())
    program = Program(model, VECTORS)
    before = x.clone()
    found = program.run(program.values(model.state_dict()), x)
    assert torch.equal(x, before)
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    torch.testing.assert_close(found, model(x.clone()))


def test_a_dtype_and_a_device_written_in_the_model_follow_the_run():
    """``.float()`` and ``torch.zeros(device=)`` are part of the program; in float64 no digits are lost."""
    model = Net(lambda m, x: m.one(x).float() + torch.zeros(x.shape[0], 3, device=x.device, dtype=x.dtype))
    program = Program(model, VECTORS)
    wide = {key: value.double() for key, value in model.state_dict().items()}
    found = program.run(program.values(wide), VECTORS.double())
    expected = VECTORS.double() @ wide["one.weight"].T + wide["one.bias"]
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    assert program.run(program.values(wide, "meta"), VECTORS.to("meta")).device.type == "meta"


def test_values_are_freed_when_nothing_reads_them_and_kept_when_asked(followed):
    net = followed("vgg11")
    first, second, third = net.program.layers[:3]
    run = Run(net.program, net.values, net.images)
    value = run.until(first.output)
    run.until(second.output, keep=[first.output])
    assert run.until(first.output) is value
    assert run.until(second.output).shape[1] == 128
    run.until(third.output)
    with pytest.raises(FedMergeError, match="keep="):
        run.until(second.output)
    assert run.until(first.output) is value


def test_weights_of_layers_that_lie_ahead_may_still_be_changed(followed):
    net = followed("mlp")
    values = dict(net.values)
    run = Run(net.program, values, net.images)
    hidden = run.until(net.program.layers[0].output)
    name = next(name for name, key in net.program.keys.items() if key == "3.weight")
    values[name] = torch.zeros_like(values[name])
    found = run.until(net.program.output)
    assert float(hidden.abs().max()) > 0
    torch.testing.assert_close(found, net.state["3.bias"].expand(2, 5))


def test_gradients_reach_the_weights_through_a_run():
    model = Net(lambda m, x: m.one(x).relu())
    program = Program(model, VECTORS)
    values = {
        name: value.requires_grad_()
        for name, value in program.values(copy.deepcopy(model.state_dict())).items()
    }
    program.run(values, VECTORS).sum().backward()
    model(VECTORS).sum().backward()
    name = next(name for name, key in program.keys.items() if key == "one.weight")
    torch.testing.assert_close(values[name].grad, model.one.weight.grad)


def test_the_layers_of_a_network_with_the_batch_norm_that_follows(followed):
    net = followed("cnn")
    one, two = net.program.layers
    assert (one.name, one.weight, one.bias) == ("0", "0.weight", "0.bias")
    assert one.norm_keys == ("1.weight", "1.bias", "1.running_mean", "1.running_var")
    assert one.norm.eps == 1e-5
    assert one.convolution is not None
    assert one.convolution[3] == 1
    assert (two.name, two.norm, two.convolution) == ("4", None, None)
    assert two.output is net.program.output


def test_depthwise_layers_are_told_apart(followed):
    flags = [layer.depthwise for layer in followed("efficientnet-lite0").program.layers]
    assert flags[:3] == [False, True, False]


def test_a_batch_norm_that_serves_two_layers_is_part_of_none():
    norm = nn.BatchNorm1d(3)
    model = Net(lambda m, x: m.norm(m.one(x)) + m.norm(m.two(x)))
    model.two, model.norm = nn.Linear(4, 3), norm
    assert [layer.norm for layer in Program(model, VECTORS).layers] == [None, None]


def test_a_buffer_that_is_not_saved_is_part_of_the_program():
    model = Net(lambda m, x: m.one(x) * m.scale)
    model.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]), persistent=False)
    found, expected = outputs(model, VECTORS)
    assert "scale" not in model.state_dict()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda m, x: m.one(x) if x.sum() > 0 else m.one(-x), ("followed", "torch.export")),
        (lambda m, x: m.one(x) / len(list(x)), ("followed", "torch.export")),
        (lambda m, x: {"scores": m.one(x)}, ("logits", "found")),
    ],
)
def test_what_cannot_be_followed_gives_a_sentence(forward, words, capfd):
    """And nothing else: torch.export prints thirty lines about some."""
    with refused(*words):
        Program(Net(forward), VECTORS)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: (m.one(x), x),
        lambda m, x: {"features": x, "logits": m.one(x)},
        lambda m, x: {"features": x, "out": m.one(x)},
    ],
)
def test_the_output_of_a_network_that_gives_several_values_is_its_logits(forward):
    model = Net(forward)
    program = Program(model, VECTORS)
    found = program.run(program.values(model.state_dict()), VECTORS)
    torch.testing.assert_close(found, model.one(VECTORS))
    assert not model._forward_hooks


def test_one_weight_under_two_names_gives_a_sentence():
    model = Net(lambda m, x: m.one(x) + m.two(x))
    model.two = nn.Linear(4, 3)
    model.two.weight = model.one.weight
    with refused("one.weight", "two.weight", "Net", "tensor"):
        Program(model, VECTORS)


def test_a_state_of_another_model_gives_a_sentence():
    with refused("one.weight", "entry"):
        Program(Net(lambda m, x: m.one(x)), VECTORS).values({})


def test_one_image_is_example_enough():
    model = Net(lambda m, x: m.one(x))
    program = Program(model, VECTORS[:1])
    torch.testing.assert_close(program.run(program.values(model.state_dict()), VECTORS), model(VECTORS))
