from __future__ import annotations

import pytest
import torch

from fedmerge.tasks import MULTICLASS
from fedmerge.testtime.probe import FULL, Probe
from tests.facts import refused


def test_chosen_images_are_evenly_spaced() -> None:
    """Four of sixteen: the middle of each quarter."""
    assert Probe(images=4).chosen(torch.zeros(16, 3, 2, 2)).tolist() == [2, 6, 10, 14]
    assert Probe(images=4).chosen(torch.zeros(4, 3, 2, 2)) is None
    assert FULL.chosen(torch.zeros(9, 3, 2, 2)) is None


def test_cost_is_the_share_of_images_and_pixels() -> None:
    images = torch.zeros(8, 3, 12, 12)
    assert Probe(images=2, size=6).cost(images) == pytest.approx(2 / 8 / 4)
    assert FULL.cost(images) == 1
    assert Probe(images=99, size=99).cost(images) == 1


def test_smaller_images_are_area_averages() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert Probe(size=2).reduce(images).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert Probe(size=4).reduce(images) is images


def test_distance_of_two_certainties_is_one() -> None:
    assert MULTICLASS.distance(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == 1


@pytest.mark.parametrize(
    "given", [{"images": 0}, {"size": 0}, {"every": 0}, {"drift": 2, "every": 2}, {"drift": 0.1}]
)
def test_unfit_probes_are_sentences(given: dict[str, float]) -> None:
    with refused("probe"):
        Probe(**given)
