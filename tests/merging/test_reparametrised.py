"""Weights that are computed from others are merged by what they are worth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from fedmerge.merging import FUSION, merge
from tests.facts import refused
from tests.merging.own_networks import FITTED, MERGES, Net, fused, images

WRAPS = {
    "weight norm": lambda net: [parametrizations.weight_norm(layer) for layer in (net.conv, net.mid)],
    "old weight norm": lambda net: [nn.utils.weight_norm(layer) for layer in (net.conv, net.mid)],
    "pruning": lambda net: prune.random_unstructured(net.conv, "weight", 0.5),
    "spectral norm": lambda net: parametrizations.spectral_norm(net.mid),
    "old spectral norm": lambda net: nn.utils.spectral_norm(net.mid),
}


def wrapped(name: str, seed: int) -> tuple[Net, Net]:
    """A network with a reparametrised layer, and the plain one that computes the same."""
    net, same = Net(seed), Net(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        WRAPS[name](net)
        net.train()
        for _ in range(30 if "spectral" in name else 1):  # until it found the largest singular value
            net(torch.rand(4, 1, 8, 8))
        net.eval()(images()[0])
    state = {key: value for key, value in net.state_dict().items() if key in same.state_dict()}
    for layer in ("conv", "mid"):
        state[f"{layer}.weight"] = getattr(net, layer).weight.detach()
    same.load_state_dict(state)
    return net, same


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize("method", [name for name in FUSION.names() if name != "dare"])
def test_reparametrised_models_merge_as_the_plain_ones_do(name: str, method: str) -> None:
    """The plain merge, whose weight W is W / s under a spectral norm, with s its largest singular value."""
    x, _ = images()
    nets, same = zip(*(wrapped(name, seed) for seed in (0, 1, 9)), strict=True)
    torch.testing.assert_close(nets[0](x), same[0](x))
    score = {"score": _negative_norm} if method.startswith("greedy") else {}
    expected = fused(list(same[:2]), method, start=same[2], **score)
    spectral = name.endswith("spectral norm") and method in MERGES
    if spectral and method in FITTED:
        with refused("mid.weight", "SpectralNorm"):
            fused(list(nets[:2]), method, start=nets[2])
        return
    if spectral:
        with torch.no_grad():
            expected.mid.weight /= torch.linalg.svdvals(expected.mid.weight)[0]
    model = fused(list(nets[:2]), method, start=nets[2], **score)
    torch.testing.assert_close(model(x), expected(x), rtol=1e-3, atol=1e-4)
    if method in MERGES:
        assert model.state_dict().keys() == nets[0].state_dict().keys()


def _negative_norm(state: dict[str, Tensor]) -> float:
    return -float(state["head.weight"].norm())


def test_a_score_is_given_states_that_the_callers_model_can_load() -> None:
    net = Net(0)
    parametrizations.weight_norm(net.mid)

    def score(state: dict[str, Tensor]) -> float:
        return float(net.load_state_dict(state).missing_keys == [])

    nets = [Net(0), Net(1)]
    for other in nets:
        parametrizations.weight_norm(other.mid)
    assert [row["score_with"] for row in merge(nets, "greedy", score=score).decisions] == [1.0, 1.0]
