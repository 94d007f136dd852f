from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.models.inputs import Normalisation
from tests.facts import refused


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
    with refused("2 means", 1):
        Normalisation((0.5, 0.5), (0.5,))
    with refused("zero", "above"):
        Normalisation((0.5,), (0.0,))
    with refused("finite"):
        Normalisation((float("nan"),), (1.0,))
    with refused("imagenet", "imgnet"):
        Normalisation.named("imgnet")
    with refused("std"):
        Normalisation.from_dict({"mean": [0.5]})


def test_images_that_do_not_fit_are_refused_in_words() -> None:
    with refused("once", "uint8", "N"):
        Normalisation.named("half")(torch.zeros(1, 1, 2, 2))
    with refused("N", "C", "H", "W"):
        Normalisation.named("half")(torch.zeros(1, 2, 2, dtype=torch.uint8))
    with refused("1 channels", 3, "normalisation"):
        Normalisation.named("imagenet")(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
