import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.merging.fitting import Descent, descend, divergence, soft_targets, split
from fedmerge.seeding import generator
from tests.facts import refused


@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 2.0, 10.0]))
def test_the_divergence_is_never_negative_and_zero_for_equals(seed, temperature):
    rng = torch.Generator().manual_seed(seed)
    z, other = 5 * torch.randn(6, 4, generator=rng), 5 * torch.randn(6, 4, generator=rng)
    assert divergence(z, soft_targets([other], temperature).float(), temperature) >= 0
    assert float(divergence(z, soft_targets([z], temperature).float(), temperature)) == pytest.approx(
        0, abs=1e-4
    )


def test_the_divergence_by_hand():
    """p = (1/2, 1/2), q = (1/4, 3/4) from logits T (0, log 3): T^2 (log 2 / 2 + log(2/3) / 2) at T = 2."""
    expected = 4 * 0.5 * torch.log(torch.tensor(2.0 * 2.0 / 3.0))
    found = divergence(torch.tensor([[0.0, 2 * 1.0986123]]), torch.tensor([[0.5, 0.5]]), 2.0)
    torch.testing.assert_close(found, expected)


def test_soft_targets_are_means_of_probabilities():
    """softmax((0, log 3)) = (1/4, 3/4) and softmax((0, 0)) = (1/2, 1/2): mean (3/8, 5/8)."""
    logits = [torch.tensor([[0.0, 2 * 1.0986123]]), torch.zeros(1, 2)]
    torch.testing.assert_close(soft_targets(logits, 2.0), torch.tensor([[0.375, 0.625]]).double())


def test_the_split_holds_a_fifth_and_every_image_once():
    fitted, held = split(10, generator(0, "split"))
    assert (len(fitted), len(held)) == (8, 2)
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(10))
    with refused("least", "two", "give"):
        split(1, generator(0, "split"))


def test_the_best_weights_are_restored_and_patience_ends_the_fit():
    """The held-out loss is scripted: start 5, then 4, 2, 3, 3, 3. Epoch 2 is best, and with a patience of 3
    the fit ends after epoch 5 with the weight and the buffer that epoch 2 left."""
    script, weight, buffer = iter([5.0, 4.0, 2.0, 3.0, 3.0, 3.0]), torch.zeros(1), torch.zeros(1)
    seen = []

    def loss(indices, training):
        if training:
            buffer.add_(1)
            return weight.sum()
        seen.append((float(weight), float(buffer)))
        return torch.tensor(next(script))

    fit = descend([weight], loss, 5, Descent(epochs=50, patience=3), rng=generator(0, "x"), buffers=[buffer])
    assert (fit.epochs, fit.best, fit.loss) == (5, 2, 2.0)
    assert (float(weight), float(buffer)) == seen[2]
    assert seen[2] != seen[5]
    assert not weight.requires_grad


def test_where_nothing_improves_the_start_is_kept():
    weight = torch.ones(1)
    fit = descend(
        [weight],
        lambda i, t: weight.square().sum() * (1 if t else -1),
        5,
        Descent(epochs=3),
        rng=generator(0, "x"),
    )
    assert (fit.best, float(weight)) == (0, 1.0)
