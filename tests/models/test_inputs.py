from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.errors import FedMergeError
from fedmerge.models.inputs import Normalisation


def test_half_maps_black_to_minus_one_and_white_to_one() -> None:
    images = torch.tensor([[[[0, 255]], [[255, 0]], [[0, 0]]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-1.0, 1.0]], [[1.0, -1.0]], [[-1.0, -1.0]]]])
    assert torch.equal(Normalisation.named("half")(images), expected)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.lists(st.floats(0.1, 2), min_size=3, max_size=3))
def test_each_channel_has_its_own_mean_and_deviation(mean: list[float], std: list[float]) -> None:
    """51 / 255 is exactly 0.2, so channel c becomes (0.2 - mean_c) / std_c."""
    out = Normalisation(tuple(mean), tuple(std))(torch.full((2, 3, 1, 2), 51, dtype=torch.uint8))
    assert out.dtype == torch.float32
    for channel in range(3):
        expected = (0.2 - mean[channel]) / std[channel]
        torch.testing.assert_close(out[:, channel], torch.full((2, 1, 2), expected), rtol=1e-5, atol=1e-5)


def test_the_stored_images_are_not_changed() -> None:
    images = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
    Normalisation.named("none")(images)
    assert torch.equal(images.flatten(), torch.arange(8, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["half", "imagenet", "none"])
def test_a_card_gives_back_the_same_normalisation(name: str) -> None:
    normalisation = Normalisation.named(name)
    assert Normalisation.from_dict(json.loads(json.dumps(normalisation.to_dict()))) == normalisation


def test_bad_values_are_refused_in_words() -> None:
    with pytest.raises(FedMergeError, match="2 means and 1 standard deviations"):
        Normalisation((0.5, 0.5), (0.5,))
    with pytest.raises(FedMergeError, match="above zero"):
        Normalisation((0.5,), (0.0,))
    with pytest.raises(FedMergeError, match="finite"):
        Normalisation((float("nan"),), (1.0,))
    with pytest.raises(FedMergeError, match="Did you mean 'imagenet'"):
        Normalisation.named("imgnet")
    with pytest.raises(FedMergeError, match="mean and std, not mean"):
        Normalisation.from_dict({"mean": [0.5]})


def test_images_that_do_not_fit_are_refused_in_words() -> None:
    with pytest.raises(FedMergeError, match="only once"):
        Normalisation.named("half")(torch.zeros(1, 1, 2, 2))
    with pytest.raises(FedMergeError, match="N x C x H x W"):
        Normalisation.named("half")(torch.zeros(1, 2, 2, dtype=torch.uint8))
    with pytest.raises(FedMergeError, match="1 channels, but the normalisation has 3"):
        Normalisation.named("imagenet")(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
