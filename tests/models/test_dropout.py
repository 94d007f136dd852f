from __future__ import annotations

import pytest
import torch
from facts import refused
from torch import Tensor, nn

from fedmerge.models.heads import features, find_head
from fedmerge.models.state import state_hash
from fedmerge.models.zoo import ModelSpec, build

CONVOLUTIONAL = ["small-cnn", "vgg11", "vgg16", "vgg19", "resnet18"]


def network(name: str, **options: float) -> nn.Module:
    return build(ModelSpec(name=name, in_channels=1, n_classes=3, image_size=12, options=options), seed=0)


def images() -> Tensor:
    return torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_dropout_changes_neither_names_nor_weights_nor_predictions(name: str) -> None:
    plain, dropping = network(name), network(name, dropout=0.5)
    assert state_hash(plain.state_dict()) == state_hash(dropping.state_dict())
    assert torch.equal(plain.eval()(images()), dropping.eval()(images()))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_without_dropout_training_draws_nothing(name: str) -> None:
    """Two training passes of one network give the same bits, and the global generator does not move."""
    model, before = network(name), torch.random.get_rng_state()
    logits = model(images())
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(logits, network(name)(images()))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_in_training_the_head_gets_each_feature_doubled_or_not_at_all(name: str) -> None:
    """Dropout 1/2 keeps a feature with probability 1/2 and divides it by 1/2, after the last batch norm."""
    plain, dropping = network(name), network(name, dropout=0.5)
    head = find_head(plain.eval(), images())
    kept = features(plain.train(), head, images())
    got = features(dropping.train(), head, images())
    dropped = (got == 0) & (kept != 0)
    torch.testing.assert_close(got[~dropped], 2 * kept[~dropped])
    share = dropped.sum() / (kept != 0).sum()
    assert 0.3 < share < 0.7


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_rate_outside_the_range_is_a_sentence(name: str, dropout: float) -> None:
    with refused("dropout", name, "option", dropout):
        network(name, dropout=dropout)
