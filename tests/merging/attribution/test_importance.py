import pytest
import torch
from torch import nn

from fedmerge.merging.attribution import importance, normalise
from fedmerge.models.graph import Program
from tests.facts import refused

KINDS = ("conductance", "deeplift", "ablation")


@pytest.fixture
def linear():
    """z = W1 (A x) on three pixels; the hidden layer has two neurons, no bias."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]]))
        net[2].weight.copy_(torch.tensor([[1.0, -3.0], [2.0, 0.5]]))
    return net.eval()


X = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0], [2.0, -1.0, 0.0]]).view(3, 1, 1, 3)
Y = torch.tensor([0, 1, 1])


def of(net, x, y, kind, **options):
    return importance(Program(net, x), net.state_dict(), x, y, kind, **options)


@pytest.mark.parametrize("kind", ["deeplift", "ablation"])
def test_of_a_linear_network_it_is_weight_times_activation(linear, kind):
    """h = A x: (-2, 7), (1, 1), (2, -2). |w_y h|: image 0, class 0: (2, 21); image 1, class 1: (2, 0.5);
    image 2: (4, 1). Sums: (8, 22.5). The head's own logits: |z_y| = |-2 - 21|, 2.5, 3, class by class."""
    found = of(linear, X, Y, kind)
    torch.testing.assert_close(found["1"], torch.tensor([8.0, 22.5], dtype=torch.float64))
    torch.testing.assert_close(found["2"], torch.tensor([23.0, 5.5], dtype=torch.float64))


def test_conductance_of_a_linear_network_lacks_what_lies_outside_the_nodes(linear):
    """The 11 Gauss-Legendre nodes reach from a_1 to a_11, so sum_t (a_{t+1} - a_t) = a_11 - a_1 of w h is
    seen. With Legendre's P_11 the outermost root is 0.978228658146: a_11 - a_1 is that number."""
    found = of(linear, X, Y, "conductance")
    expected = 0.978228658146 * torch.tensor([8.0, 22.5], dtype=torch.float64)
    torch.testing.assert_close(found["1"], expected, rtol=1e-5, atol=0)


def test_uniform_scores_are_one_for_each_image_and_need_no_labels(linear):
    found = of(linear, X, None, "uniform")
    assert {name: s.tolist() for name, s in found.items()} == {"1": [3.0, 3.0], "2": [3.0, 3.0]}


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_two_hospitals_add_up_and_batches_do_not_matter(kind):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2)).double().eval()
    x, y = torch.randn(7, 1, 4, 4).double(), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    whole = of(net, x, y, kind, batch_size=3)
    parts = [of(net, x[:3], y[:3], kind), of(net, x[3:], y[3:], kind)]
    for name, sums in whole.items():
        assert sums.dtype == torch.float64
        torch.testing.assert_close(sums, parts[0][name] + parts[1][name], rtol=1e-9, atol=0)


def test_channels_are_dimension_one_of_convolutions_and_the_last_of_linear_layers():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.head = nn.Conv2d(1, 3, 2, stride=2), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.mix(self.embed(x).flatten(2).transpose(1, 2)).mean(1))

    found = of(Tokens().eval(), torch.randn(2, 1, 4, 4), torch.tensor([0, 1]), "conductance")
    assert {name: len(s) for name, s in found.items()} == {"embed": 3, "mix": 5, "head": 2}


def test_ablation_moves_the_logit_by_what_zeroing_a_channel_takes():
    """Image 1 x 1 x 2 of (1, 2); conv weights 1, -1, 3 on each pixel; ReLU; the head sums each channel's
    pixels with 1, 5, -2. Channels after ReLU: 3, 0, 9 in sum, so the logit loses 3, 0 and -18."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0, 3.0]).view(3, 1, 1, 1))
        net[3].weight.copy_(torch.tensor([[1.0, 1.0, 5.0, 5.0, -2.0, -2.0], [0.0] * 6]))
    found = of(net.eval(), torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), torch.tensor([0]), "ablation")
    torch.testing.assert_close(found["0"], torch.tensor([3.0, 0.0, 18.0], dtype=torch.float64))


def test_normalisation_is_for_each_layer_of_a_model():
    scores = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0, 2.0, 4.0])}
    assert normalise(scores)["a"].tolist() == [0.5, 1.5]
    assert normalise(scores)["b"].tolist() == [0.75, 0.75, 1.5]
    assert normalise(scores, "sum1")["b"].tolist() == [0.25, 0.25, 0.5]
    assert normalise(scores, "none")["b"].equal(scores["b"])


def test_missing_labels_are_a_sentence(linear):
    with refused("3 images", "image", "labels="):
        of(linear, X, None, "conductance")
    with refused("2 labels", "3 images"):
        of(linear, X, Y[:2], "deeplift")


@pytest.mark.parametrize("count", [1, 7, 200])
def test_a_channel_that_decides_no_true_logit_has_exactly_none_by_ablation(count: int) -> None:
    """Class 2 has no image, and hidden neuron 3 no way out: their importance is 0, and no rounding. A batch
    of another size may be rounded in another way, and a difference of 1e-8 would count as a preference."""
    draws = torch.Generator().manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=draws)
        net[3].weight[:, 3] = 0
    x = torch.randn(count, 1, 8, 8, generator=draws)
    found = of(net.eval(), x, torch.arange(count) % 2, "ablation")
    assert found["3"][2] == 0
    assert found["1"][3] == 0
    assert found["3"][0] > 0
