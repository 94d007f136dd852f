from __future__ import annotations

import torch
from torch import Tensor, nn

import fedmerge as fm
from fedmerge.seeding import generator
from fedmerge.testtime import TESTTIME, EntropyAdaptive, StreamAdaptive
from fedmerge.testtime.guard import Guard
from fedmerge.testtime.options import Norms
from fedmerge.testtime.probe import Probe
from tests.testtime.grouped import adaptive


def test_it_is_entropy_adaptive_with_the_streams_norms_and_a_guard(
    models: list[nn.Module], batch: Tensor
) -> None:
    node = StreamAdaptive(models)
    own = node.coefficients.temperature
    prior = node.merged.stream.prior
    same = adaptive(
        models, temperature=own, statistics="stream", prior=prior, learn="all", guard=Guard(), probe=Probe(8)
    )
    twelve = torch.cat([batch, batch.flip(0) * 2])[:12]
    for each in (twelve, batch.flip(0) * 2, batch[:3]):
        assert torch.equal(node(each), same(each))
    assert node.monitor is not None
    assert node.forward_passes == (1 + 3 * 8 / 12) + sum(1 + 3 * min(1, 8 / n) for n in (len(batch), 3))


def test_it_learns_the_scanner_that_no_source_has() -> None:
    """Two classes, two pixels; a scanner that adds 2.4 to one of them makes the classes look alike."""
    labels = torch.arange(640) % 2
    x = torch.stack([1.0 - 2 * labels, 2.0 * labels - 1], dim=1)
    x += 0.5 * torch.randn(640, 2, generator=generator(0, "test")) + torch.tensor([2.4, 0.0])
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False)).eval()
    model[2].weight.data = 3 * torch.eye(2)

    def accuracy(node: EntropyAdaptive) -> float:
        said = torch.cat([node(batch) for batch in x[:, :, None, None].split(64)])
        return float((said.argmax(dim=1) == labels).float().mean())

    plain = accuracy(EntropyAdaptive([model, model]))
    assert plain < 0.75
    assert accuracy(StreamAdaptive([model, model])) > plain + 0.15


def test_norms_of_pretrained_networks_stay_as_they_are_unless_told(
    models: list[nn.Module], batch: Tensor
) -> None:
    """Its coefficients, probe and guard with the sources' norms; norms that are given are taken."""
    pretrained = StreamAdaptive(models, pretrained=True)
    as_they_are = adaptive(
        models, temperature=pretrained.coefficients.temperature, guard=Guard(), probe=Probe(8)
    )
    given = Norms("stream", prior=64.0, learn="all")
    told, scratch = StreamAdaptive(models, pretrained=True, norms=given), StreamAdaptive(models)
    for each in (batch, batch.flip(0) * 2):
        assert torch.equal(pretrained(each), as_they_are(each))
        assert torch.equal(told(each), scratch(each))
    assert not torch.equal(pretrained(batch), scratch(batch))


def test_without_batch_norm_it_is_the_papers(batch: Tensor) -> None:
    networks = [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(100, 4)).eval() for _ in range(2)
    ]
    node = StreamAdaptive(networks)
    plain = adaptive(networks, temperature=node.coefficients.temperature)
    assert torch.equal(node(batch), plain(batch))


def test_it_is_known_by_name_and_from_the_top() -> None:
    assert fm.StreamAdaptive is StreamAdaptive is TESTTIME["stream-adaptive"].call
    assert TESTTIME["stream-adaptive"].check({"guard": None}) == {"guard": None}


def test_a_group_in_a_file_says_what_is_not_as_in_its_defaults() -> None:
    checked = TESTTIME["stream-adaptive"].check({"norms": {"prior": 5}, "coefficients": {"head": "shared"}})
    assert checked["norms"] == Norms("stream", prior=5.0, learn="all")
    assert (checked["coefficients"].temperature, checked["coefficients"].head) == (0.3, "shared")
