import pytest
import torch

from fedmerge.errors import FedMergeError
from fedmerge.merging import merge


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
    with pytest.raises(FedMergeError, match="pass data="):
        merge(nets, "ensemble-features")
