import pytest
import torch

from fedmerge.errors import FedMergeError
from fedmerge.merging import merge


def head(net):
    return net[2].weight.detach()


def test_the_mean_is_the_sum_of_weights_over_m(nets):
    fused = merge(nets, "mean")
    torch.testing.assert_close(head(fused.model), (head(nets[0]) + head(nets[1]) + head(nets[2])) / 3)
    assert fused.coefficients == pytest.approx({"model-0": 1 / 3, "model-1": 1 / 3, "model-2": 1 / 3})
    assert fused.forward_passes == 1


def test_weights_by_samples_and_by_hand_agree(nets):
    """10, 30 and 60 images are weights 0.1, 0.3, 0.6."""
    by_samples = merge(nets, "mean", weights="samples", examples=[10, 30, 60])
    by_hand = merge(nets, "mean", weights=[0.1, 0.3, 0.6])
    torch.testing.assert_close(head(by_samples.model), head(by_hand.model))
    torch.testing.assert_close(
        head(by_hand.model), 0.1 * head(nets[0]) + 0.3 * head(nets[1]) + 0.6 * head(nets[2])
    )
    assert by_samples.coefficients == pytest.approx({"model-0": 0.1, "model-1": 0.3, "model-2": 0.6})


def test_a_model_with_itself_is_itself_and_inputs_stay_as_they_were(nets):
    before = head(nets[1]).clone()
    fused = merge([nets[1], nets[1], nets[1]], "mean").model
    assert head(fused).equal(before)
    with torch.no_grad():
        fused[2].weight.zero_()
    assert head(nets[1]).equal(before)


def test_the_order_of_models_does_not_matter(nets):
    forth, back = merge(nets, "mean").model, merge(nets[::-1], "mean").model
    torch.testing.assert_close(head(forth), head(back))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "samples"}, "pass examples="),
        ({"weights": [1.0, 2.0]}, "2 weights were given for 3 models"),
        ({"weights": "sample"}, "option 'weights"),
        ({"names": ["a"]}, "1 names were given for 3 models"),
    ],
)
def test_bad_weights_are_sentences(nets, options, words):
    with pytest.raises(FedMergeError, match=words):
        merge(nets, "mean", **options)
