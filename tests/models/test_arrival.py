"""The share of initial statistics that is left, against (1 - m)^t."""

import math

import pytest
import torch
from torch import nn

from fedmerge.models.arrival import initial_statistics


def test_what_is_left_after_steps_by_hand():
    """Of two layers with momenta .1 and .01, after 3 steps, the slower one has .99^3 left."""
    network = nn.Sequential(nn.BatchNorm1d(2, momentum=0.1), nn.BatchNorm1d(2, momentum=0.01))
    assert initial_statistics(network) == 1.0
    for _ in range(3):
        network(torch.randn(4, 2))
    assert initial_statistics(network) == pytest.approx(0.99**3)


def test_it_is_what_is_left_of_the_initial_mean():
    """Of a stream of zeros, an initial mean of 1 is what is left."""
    norm = nn.BatchNorm1d(1, momentum=0.2)
    norm.running_mean.fill_(1.0)
    for _ in range(5):
        norm(torch.zeros(4, 1))
    assert float(norm.running_mean) == pytest.approx(initial_statistics(norm))


def test_a_cumulative_mean_has_arrived_after_one_step():
    norm = nn.BatchNorm1d(2, momentum=None)
    assert initial_statistics(norm) == 1.0
    norm(torch.randn(4, 2))
    assert initial_statistics(norm) == 0.0


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False), object()])
def test_without_running_statistics_there_is_nothing_to_say(model):
    assert math.isnan(initial_statistics(model))
