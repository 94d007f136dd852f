import pytest
import torch

from fedmerge.models.graph import Run, levels

NAMES = [
    *("mlp", "cnn", "vgg11", "resnet18", "tiny-vit", "torchvision vit", "torchvision mobilenet"),
    *("torchvision densenet", "torchvision shufflenet"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [2, 3])
def test_levels_run_one_after_the_other_are_the_network(name, batch, followed):
    net = followed(name)
    images = torch.rand(batch, *net.images.shape[1:], generator=torch.Generator().manual_seed(0))
    value = images
    start = net.program.input
    with torch.no_grad():
        for level in levels(net.program):
            assert level.start is start
            value = Run(net.program, net.values, value, level.start).until(level.stop)
            start = level.stop
        expected = net.model(images)
    assert start is net.program.output
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_and_each_weight_is_in_one_level(name, followed):
    net = followed(name)
    found = levels(net.program)
    layers = [layer.name for level in found for layer in level.layers]
    keys = [key for level in found for key in level.keys]
    assert layers == [layer.name for layer in net.program.layers]
    assert len(keys) == len(set(keys))
    assert set(keys) == {key for key in net.state if not key.endswith("num_batches_tracked")}


def test_a_vgg_has_one_affine_level_a_layer_with_its_batch_norm(followed):
    found = levels(followed("vgg11").program)
    assert len(found) == 9
    assert all(level.affine and len(level.layers) == 1 for level in found)
    assert [level.layers[0].norm is not None for level in found] == 8 * [True] + [False]


def test_a_resnet_has_one_level_a_block(followed):
    """The stem, eight blocks, the head; the first and the last are affine."""
    found = levels(followed("resnet18").program)
    assert [len(level.layers) for level in found] == [1, *[2, 2, 3, 2, 3, 2, 3, 2], 1]
    assert [level.affine for level in found] == [True, *8 * [False], True]


def test_a_transformer_has_one_level_for_each_attention_and_each_perceptron(followed):
    """Patches, then in_proj and out_proj, then two layers of a perceptron, twice; the head."""
    found = levels(followed("torchvision vit").program)
    assert [len(level.layers) for level in found] == [1, 2, 2, 2, 2, 1]
    assert [level.affine for level in found] == [True, *5 * [False]]
