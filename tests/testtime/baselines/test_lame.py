from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import Lame
from fedmerge.testtime.baselines.lame import affinity, smoothed
from fedmerge.testtime.baselines.start import mean_merged
from tests.facts import refused

# two clusters by direction; the third image of the first is predicted, weakly, as the other class
CLUSTERS = torch.tensor([[1.0, 0.0], [9.0, 0.1], [4.0, 0.05], [0.0, 1.0], [0.1, 9.0], [0.05, 4.0]])
LOG_P = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55], [0.1, 0.9], [0.1, 0.9], [0.2, 0.8]]).log()


def test_the_graph_of_two_clusters() -> None:
    """By direction, not length; two neighbours each are the rest of the cluster, never the image itself."""
    block = torch.ones(3, 3) - torch.eye(3)
    assert torch.equal(affinity(CLUSTERS, 2), torch.block_diag(block, block))


def test_neighbours_are_at_most_the_rest_of_the_batch() -> None:
    assert torch.equal(affinity(CLUSTERS[:2], 5), 1 - torch.eye(2))
    assert torch.equal(affinity(CLUSTERS[:1], 5), torch.zeros(1, 1))


def test_one_iteration_by_hand() -> None:
    """Two images joined, p_1 = (0.8, 0.2), p_2 = (0.3, 0.7): y_1 is p_1 exp(p_2) divided by its sum."""
    p = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    y = smoothed(p.log(), 1 - torch.eye(2), 1).exp()
    first = [0.8 * math.exp(0.3), 0.2 * math.exp(0.7)]
    second = [0.3 * math.exp(0.8), 0.7 * math.exp(0.2)]
    expected = [[a / (a + b), b / (a + b)] for a, b in (first, second)]
    torch.testing.assert_close(y, torch.tensor(expected))


def test_a_fixed_point_on_two_clusters_where_neighbours_outvote_a_weak_prediction() -> None:
    weights = affinity(CLUSTERS, 2)
    y = smoothed(LOG_P, weights, 100).exp()
    torch.testing.assert_close(y, (LOG_P + weights @ y).softmax(dim=1), rtol=1e-3, atol=1e-4)
    assert LOG_P.argmax(dim=1).tolist() == [0, 0, 1, 1, 1, 1]
    assert y.argmax(dim=1).tolist() == [0, 0, 0, 1, 1, 1]


def test_the_objective_never_rises() -> None:
    """sum_i KL(y_i | p_i) - sum_ij w_ij y_i . y_j over a symmetric graph, iteration by iteration."""
    weights = affinity(CLUSTERS, 2)
    energies = []
    for steps in range(1, 8):
        log_y = smoothed(LOG_P, weights, steps)
        y = log_y.exp()
        energies.append(float((y * (log_y - LOG_P)).sum() - (y * (weights @ y)).sum()))
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(energies))
    assert energies[-1] < energies[0]


def test_one_image_keeps_its_prediction(models: list[nn.Module], batch: Tensor) -> None:
    logits, _ = Lame(models).observe(batch[:1])
    torch.testing.assert_close(logits, mean_merged(models, "mixture")(batch[:1]).log_softmax(dim=1))


def test_the_order_of_images_does_not_matter(models: list[nn.Module], batch: Tensor) -> None:
    node = Lame(models)
    torch.testing.assert_close(
        node.observe(batch.flip(0))[0].flip(0), node.observe(batch)[0], rtol=1e-4, atol=1e-4
    )


def test_unfit_options_are_sentences(models: list[nn.Module]) -> None:
    for options in ({"neighbours": 0}, {"steps": 0}):
        with refused(1, "least"):
            Lame(models, **options)
