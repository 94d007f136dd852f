import pytest
import torch

from fedmerge.merging import merge
from tests.facts import refused


def test_the_logit_ensemble_is_the_mean_of_the_logits(nets, data):
    x, _ = data
    fused = merge(nets, "ensemble-logits")
    torch.testing.assert_close(fused.model(x), sum(net(x) for net in nets) / 3)
    assert fused.forward_passes == 3


def test_for_linear_models_weights_logits_and_features_agree(nets, data):
    """Encoders are equal here, so mean features through the mean head = mean logits = the mean model."""
    x, _ = data
    logits = merge(nets, "ensemble-logits").model(x)
    torch.testing.assert_close(merge(nets, "ensemble-features", data=x).model(x), logits)
    torch.testing.assert_close(merge(nets, "mean").model(x), logits)


def test_features_through_the_first_head(nets, data):
    x, _ = data
    fused = merge(nets, "ensemble-features", data=x, head="first")
    torch.testing.assert_close(fused.model(x), nets[0](x))


def test_features_need_to_see_a_batch(nets):
    with refused("data=", "ensemble-features"):
        merge(nets, "ensemble-features")


def test_probabilities_are_averaged_and_logits_geometrically(nets, data):
    """softmax(output) is the mean of the softmaxes; that of the logit ensemble is their geometric mean."""
    x, _ = data
    probabilities = torch.stack([net(x).softmax(1) for net in nets])
    fused = merge(nets, "ensemble-probabilities")
    torch.testing.assert_close(fused.model(x).exp(), probabilities.mean(0))
    torch.testing.assert_close(fused.model(x).softmax(1), probabilities.mean(0))
    geometric = probabilities.prod(0) ** (1 / 3)
    torch.testing.assert_close(
        merge(nets, "ensemble-logits").model(x).softmax(1), geometric / geometric.sum(1, keepdim=True)
    )
    assert fused.forward_passes == 3


def test_weights_of_votes(nets, data):
    """10, 30 and 60 images are weights 0.1, 0.3, 0.6; a weight of zero takes no part."""
    x, _ = data
    shares = torch.tensor([0.1, 0.3, 0.6]).view(3, 1, 1)
    logits = merge(nets, "ensemble-logits", weights="samples", examples=[10, 30, 60])
    torch.testing.assert_close(logits.model(x), (shares * torch.stack([net(x) for net in nets])).sum(0))
    assert logits.coefficients == pytest.approx({"model-0": 0.1, "model-1": 0.3, "model-2": 0.6})
    mixed = merge(nets, "ensemble-probabilities", weights=[1.0, 3.0, 6.0]).model(x)
    torch.testing.assert_close(
        mixed.exp(), (shares * torch.stack([net(x).softmax(1) for net in nets])).sum(0)
    )
    alone = merge(nets, "ensemble-probabilities", weights=[0.0, 2.0, 0.0]).model(x)
    torch.testing.assert_close(alone, nets[1](x).log_softmax(1))
    linear = merge(nets, "ensemble-features", data=x, weights=[1.0, 3.0, 6.0]).model(x)
    torch.testing.assert_close(linear, logits.model(x))  # equal encoders: the head is what is averaged
    with refused("below", "ensemble-probabilities"):
        merge(nets, "ensemble-probabilities", weights=[2.0, 1.0, -1.0])


@pytest.mark.parametrize("of", ["logits", "probabilities", "features"])
def test_the_greedy_ensemble_votes_among_the_members_of_the_soup(nets, data, of):
    """First weights 1, 3, -1. Greedy v2 starts at model 0; (1 + 3) / 2 = 2 is rejected; (2 * 1 - 1) / 3 = 1/3
    is accepted: members 0 and 2, which vote equally though the soup weighs them 2/3 and 1/3."""
    x, _ = data
    table = {1.0: 0.5, 3.0: 0.1, -1.0: 0.1, 2.0: 0.4, 0.333333: 0.9}
    fused = merge(
        nets, "ensemble-greedy", of=of, data=x, score=lambda s: table[round(float(s["2.weight"][0, 0]), 6)]
    )
    expected = merge([nets[0], nets[2]], f"ensemble-{of}", data=x)
    torch.testing.assert_close(fused.model(x), expected.model(x))
    assert fused.forward_passes == 2
    assert fused.coefficients == {"model-0": 0.5, "model-1": 0.0, "model-2": 0.5}
    assert [d["accepted"] for d in fused.decisions] == [True, False, True]
