from __future__ import annotations

import torch
from torch import nn

from fedmerge.seeding import generator
from fedmerge.testtime.norms import BatchStatistics, affine_parameters, use_batch_statistics
from tests.facts import refused

X = torch.randn(4, 3, 5, 5, generator=generator(0, "test"))


def test_the_batch_alone_is_training_mode(drawn_norm) -> None:
    torch.testing.assert_close(BatchStatistics(drawn_norm())(X), drawn_norm().train()(X))


def test_a_mixture_of_source_and_batch_by_hand(drawn_norm) -> None:
    """12 source images and 4 in the batch: 3/4 of the source's moments and 1/4 of the batch's."""
    norm = drawn_norm()
    mean = 0.75 * norm.running_mean + 0.25 * X.mean(dim=(0, 2, 3))
    var = 0.75 * norm.running_var + 0.25 * X.var(dim=(0, 2, 3), correction=0)
    shape = (1, 3, 1, 1)
    scale = (norm.weight / (var + norm.eps).sqrt()).view(shape)
    expected = (X - mean.view(shape)) * scale + norm.bias.view(shape)
    torch.testing.assert_close(BatchStatistics(norm, 12)(X), expected)


def test_one_value_a_channel_has_no_variance_and_takes_source_statistics(drawn_norm) -> None:
    one = X[:1, :, :1, :1]
    torch.testing.assert_close(BatchStatistics(drawn_norm())(one), drawn_norm()(one))
    with refused("value", "channel"):
        BatchStatistics(nn.BatchNorm2d(3, track_running_stats=False))(one)


def test_every_norm_is_found_and_its_entries_keep_their_names() -> None:
    kinds = [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4, affine=True)]
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), *kinds, nn.InstanceNorm2d(4), nn.LayerNorm(4, elementwise_affine=False)
    )
    before = model.state_dict()
    assert use_batch_statistics(model) == 1
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[key].data_ptr() == before[key].data_ptr() for key in before)
    found = {id(parameter) for parameter in affine_parameters(model)}
    assert found == {id(parameter) for kind in kinds for parameter in kind.parameters()}


def test_a_norm_under_two_names_is_replaced_once() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.ReLU(), norm)
    assert use_batch_statistics(model) == 1
    assert isinstance(model[0], BatchStatistics)
    assert model[0] is model[2]
    assert len(affine_parameters(model)) == 2
    assert list(model.state_dict())[:2] == ["0.weight", "0.bias"]


def test_float16_has_its_moments_in_float32(drawn_norm) -> None:
    """Pixels of 300 have squares above 65,504, where float16 ends, and 1/sqrt(var) below its numbers."""
    x = 300 * X
    for images in (0, 12):
        found = BatchStatistics(drawn_norm().half(), images)(x.half())
        expected = BatchStatistics(drawn_norm().half().double(), images)(x.half().double())
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.double(), expected, rtol=2**-10, atol=2**-10)
