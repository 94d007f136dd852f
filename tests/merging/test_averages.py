import itertools

import pytest
import torch

from fedmerge.merging import FUSION, averages, merge
from fedmerge.merging.checks import summation_order
from fedmerge.merging.parents import Parents
from tests.facts import refused


def single(number):
    """A model in float64 whose second layer has this weight."""
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)).double()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    torch.nn.init.constant_(net[1].weight, number)
    return net


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


def test_the_order_of_models_changes_no_bit():
    """In float64, (1e8 + 1) - 1e8 + 2^-30 rounds differently from other orders of the same four numbers;
    the same numbers added from left to right show that order matters here."""
    numbers = [1e8, 1.0, -1e8, 2.0**-30]
    assert len({sum(order) for order in itertools.permutations(numbers)}) > 1
    nets = [single(number) for number in numbers]
    results = {merge(order, "mean").model[1].weight.item() for order in itertools.permutations(nets)}
    assert len(results) == 1


def test_equal_models_with_unequal_weights_are_summed_in_one_order_too():
    """Three times the same model, weights 0.1, 0.2 and 0.3: their products' sum depends on the order."""
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    nets = [single(1.0) for _ in range(3)]
    results = {
        merge(nets, "mean", weights=list(order)).model[1].weight.item()
        for order in itertools.permutations([0.1, 0.2, 0.3])
    }
    assert len(results) == 1


def test_weights_by_score(nets):
    """Scores 0.2, 0.6 and 0 are weights 1/4, 3/4 and 0; each model is scored once."""
    scores = {1.0: 0.2, 3.0: 0.6, -1.0: 0.0}
    seen = []

    def score(state):
        seen.append(state["2.weight"][0, 0].item())
        return scores[seen[-1]]

    fused = merge(nets, "mean", weights="metric", groups={"bias": "metric"}, score=score)
    assert list(fused.coefficients.values()) == pytest.approx([0.25, 0.75, 0.0])
    torch.testing.assert_close(head(fused.model), 0.25 * head(nets[0]) + 0.75 * head(nets[1]))
    assert sorted(seen) == [-1.0, 1.0, 3.0]


def test_groups_have_weights_of_their_own(nets, data):
    """Head: model 1 alone. Biases outside the head: 1, 0, 1. All else: the mean. The first match wins, so
    the head's bias is model 1's."""
    for i, net in enumerate(nets):
        torch.nn.init.constant_(net[1].bias, float(i))
    groups = {"head": [0.0, 1.0, 0.0], "bias$": [1.0, 0.0, 1.0]}
    fused = merge(nets, "mean", groups=groups, data=data[0])
    assert head(fused.model).equal(head(nets[1]))
    assert fused.model[2].bias.equal(nets[1][2].bias)
    assert fused.model[1].bias.tolist() == [1.0, 1.0]
    assert fused.model[1].weight.equal(torch.eye(2))
    assert list(fused.coefficients.values()) == pytest.approx([1 / 3] * 3)
    assert [(d["group"], d["entries"]) for d in fused.decisions] == [("head", 2), ("bias$", 1)]
    assert fused.decisions[1]["coefficients"] == {"model-0": 0.5, "model-1": 0.0, "model-2": 0.5}


def test_encoder_and_head_part_the_model(nets, data):
    """Encoder of model 0, head by images: the same as the whole by two merges."""
    groups = {"encoder": [1.0, 0.0, 0.0], "head": "samples"}
    fused = merge(nets, "mean", groups=groups, data=data[0], examples=[1, 1, 2])
    torch.testing.assert_close(head(fused.model), head(merge(nets, "mean", weights=[1, 1, 2]).model))
    assert fused.model[1].weight.equal(nets[0][1].weight)
    assert [d["entries"] for d in fused.decisions] == [2, 2]


def test_a_running_variance_goes_with_its_mean():
    """Means 0 and 2, variances 1 and 3, both of the group: mixture 1 and 2 + 1, though its expression
    names the mean alone. Weighted 1, 0 the rest is model 0's."""
    nets = [torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)]
    nets[1].running_mean.fill_(2.0)
    nets[1].running_var.fill_(3.0)
    nets[1].weight.data.fill_(5.0)
    fused = merge(nets, "mean", weights=[1.0, 0.0], groups={"running_mean": "uniform"}).model
    assert (fused.running_mean.item(), fused.running_var.item(), fused.weight.item()) == (1.0, 3.0, 1.0)


def test_what_comes_from_the_first_model_is_the_first_given():
    """The order of summation must not choose whose counter and, under ``first``, whose statistics stay."""
    nets = [torch.nn.BatchNorm1d(1) for _ in range(4)]
    for i, net in enumerate(nets):
        net.num_batches_tracked.fill_(i)
        net.running_mean.fill_(float(i))
    for order in itertools.permutations(range(4)):
        fused = merge([nets[i] for i in order], "mean", batch_norm="first").model
        assert fused.num_batches_tracked.item() == order[0]
        assert fused.running_mean.item() == order[0]


def test_summing_by_halves_changes_no_bit_and_holds_half(monkeypatch):
    """The same order of models, so the same sums as in one go. Three batch norms of 8 channels are 34 numbers
    of 32 bits each, 102 in all: 50 stand before the second's running mean, 58 after it, so the middle parts
    it from its variance; both go with the first half, which is then 66 / 102 < 2/3 of the bytes."""
    nets = [torch.nn.Sequential(*(torch.nn.BatchNorm1d(8) for _ in range(3))) for _ in range(3)]
    draws = torch.Generator().manual_seed(0)
    for net in nets:
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=draws))
    whole = averages.average
    sizes = []

    def watched(states, *given, **options):
        held = list(states)
        sizes.append(sum(value.nbytes for value in held[0].values()))
        return whole(held, *given, **options)

    monkeypatch.setattr(averages, "average", watched)
    parents = Parents.of(nets)
    weights = [0.1, 0.2, 0.7]
    order = summation_order(parents, weights)
    fused = merge(nets, "mean", weights=weights).model.state_dict()
    expected = whole([nets[i].state_dict() for i in order], [weights[i] for i in order])
    floats = [key for key, value in fused.items() if value.is_floating_point()]
    assert all(fused[key].equal(expected[key]) for key in floats)
    assert len(sizes) == 2
    assert sum(sizes) == sum(value.nbytes for value in fused.values())
    assert max(sizes) < 2 / 3 * sum(sizes)


def test_only_scores_and_heads_that_are_asked_for_are_needed():
    mean = FUSION["mean"]
    assert not mean.needs_with({}).names()
    assert mean.needs_with({"weights": "metric"}).names() == ["score"]
    assert mean.needs_with({"groups": {"head": "metric"}}).names() == ["score", "features"]
    assert not mean.needs_with({"weights": [1.0], "groups": {"conv": "samples"}}).names()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": {"2.wieght": "uniform"}}, ("2.wieght", "names: 2.weight")),
        ({"groups": {"(": "uniform"}}, ("'('", "expression")),
        ({"groups": {"head": "uniform"}}, ("data=", "head")),
        ({"groups": {"bias": [1.0]}}, ("1 weights", "3 models")),
        ({"weights": "metric"}, ("validation", "mean", "data=")),
        ({"weights": "metric", "score": lambda state: -1.0}, ("negative", "like")),
        ({"weights": "metric", "score": lambda state: float("nan")}, ("score=", "NaN")),
        ({"weights": "metric", "score": lambda state: 0.0}, ("sum", "finite")),
        ({"weights": [1.0, -1.0, 0.0]}, ("sum", "finite")),
    ],
)
def test_bad_groups_and_scores_are_sentences(nets, options, words):
    with refused(*words):
        merge(nets, "mean", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "samples"}, ("examples=",)),
        ({"weights": [1.0, 2.0]}, ("2 weights", "3 models")),
        ({"weights": "sample"}, ("option", "mean", "weights")),
        ({"names": ["a"]}, ("1 names", "3 models")),
    ],
)
def test_bad_weights_are_sentences(nets, options, words):
    with refused(*words):
        merge(nets, "mean", **options)
