"""Networks with shortcuts into other widths: channels that additions tie are fused as one group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedmerge as fm
from fedmerge.merging.matching.kmeans_fusion import kmeans_fusion
from fedmerge.merging.matching.networks import Networks
from fedmerge.merging.methods import Context
from fedmerge.merging.parents import Parents
from fedmerge.models import ModelSpec, build
from tests.facts import refused

Permuted = Callable[..., nn.Module]
CLOSE = 1e-4
"""Of the largest output; float32 weights."""
METHODS: list[tuple[str, dict[str, Any]]] = [("kf", {}), ("kf-gradient", {"descent": {"epochs": 2}})]
NORMS = [True, False]


class Block(nn.Module):
    """Two convolutions and a shortcut, projected where the channels change."""

    def __init__(self, inputs: int, outputs: int, normed: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs, normed)
        self.conv2, self.norm2 = conv(outputs, outputs, normed)
        self.shortcut: nn.Module = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Residual(nn.Module):
    """A stem, a block whose shortcut is the identity and one whose shortcut is projected; three classes."""

    def __init__(self, width: int, normed: bool) -> None:
        super().__init__()
        self.stem, self.norm = conv(1, width, normed)
        self.blocks = nn.Sequential(Block(width, width, normed), Block(width, 2 * width, normed))
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))


def conv(inputs: int, outputs: int, normed: bool) -> tuple[nn.Module, nn.Module]:
    """A convolution and what follows it."""
    made = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not normed)
    return made, nn.BatchNorm2d(outputs) if normed else nn.Identity()


@torch.no_grad()
def network(width: int, seed: int, normed: bool) -> nn.Module:
    """A network all of whose entries are random, statistics too."""
    made, rng = Residual(width, normed).eval(), torch.Generator().manual_seed(seed)
    for key, value in made.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2, generator=rng)
        elif value.is_floating_point():
            value.normal_(0, (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.3, generator=rng)
    return made


def doubled(model: nn.Module, normed: bool) -> nn.Module:
    """The same function from twice as many neurons: each twice, and halved where it is read."""
    state, wide = {}, network(2 * model.stem.out_channels, 99, normed)
    for key, value in model.state_dict().items():
        into = value
        if value.ndim > 1 and key != "stem.weight":
            into = into.repeat_interleave(2, 1) / 2
        if value.ndim > 0 and not key.startswith("head."):
            into = into.repeat_interleave(2, 0)
        state[key] = into
    wide.load_state_dict(state)
    return wide.eval()


@torch.no_grad()
def check_same(found: nn.Module, wanted: nn.Module, x: Tensor) -> None:
    expected = wanted(x)
    assert float((found(x) - expected).abs().max() / expected.abs().max()) < CLOSE


@pytest.mark.parametrize("normed", NORMS)
def test_a_doubled_network_is_the_network(normed: bool, unseen: Tensor) -> None:
    model = network(4, 0, normed)
    torch.testing.assert_close(doubled(model, normed)(unseen), model(unseen), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normed", NORMS)
@pytest.mark.parametrize(("method", "options"), METHODS, ids=["kf", "kf-gradient"])
def test_a_network_of_doubled_neurons_is_compressed_to_half_its_width(
    method: str, options: dict[str, Any], normed: bool, permuted: Permuted, images: Tensor, unseen: Tensor
) -> None:
    """Each cluster is one neuron and its double, in any order, so nothing is lost: by one parent, and by two
    whose neurons are in other orders; also on images that were not seen."""
    model = network(4, 0, normed)
    wide = doubled(model, normed)
    other = permuted(wide, images)
    blank = network(4, 7, normed)
    for parents in ([wide], [other, wide], [wide, model]):
        fused = fm.merge(parents, method, data=images, into=blank, **options).model
        assert fused.stem.out_channels == 4
        check_same(fused, model, unseen)


@pytest.mark.parametrize(("method", "options"), METHODS, ids=["kf", "kf-gradient"])
def test_into_the_width_of_the_parents_is_what_it_is_without_into(
    method: str, options: dict[str, Any], images: Tensor
) -> None:
    parents = [network(4, seed, True) for seed in range(2)]
    plain = fm.merge(parents, method, data=images, **options).model.state_dict()
    into = fm.merge(parents, method, data=images, into=network(4, 7, True), **options).model.state_dict()
    assert all(torch.equal(value, into[key]) for key, value in plain.items())


def test_all_that_writes_into_a_residual_stream_has_one_assignment(images: Tensor) -> None:
    """Parents of widths 6 and 5 into 3: one map for the stem and the first block's end, which are added, and
    one for the second block's end and its projected shortcut."""
    models = [network(6, 0, True), network(5, 1, True)]
    parents = Parents.of(models, into=network(3, 7, True), any_width=True)
    merged = kmeans_fusion(parents, Context(data=images, example=images[:2]))
    maps = merged.correspondence
    assert maps is not None
    assert len(merged.decisions) == len(maps.groups) == 4  # two streams, and the inside of two blocks

    def of(key: str, sizes: tuple[int, int], size: int) -> list[Tensor]:
        return maps.out(key, 0, sizes, size)

    first, second = (6, 5), (12, 10)
    torch.testing.assert_close(of("stem.weight", first, 3), of("blocks.0.conv2.weight", first, 3))
    torch.testing.assert_close(
        of("blocks.1.conv2.weight", second, 6), of("blocks.1.shortcut.weight", second, 6)
    )
    networks = Networks.of(parents, Context(example=images[:2]))
    assert networks.sizes(0) == [6, 5]
    assert not networks.one_width


def test_the_fit_of_levels_is_no_worse_than_where_it_begins(images: Tensor) -> None:
    """Without an epoch every level is what kf makes. The stem can compute its targets, so nothing is left to
    descend; the first block has at most the loss it began with, and here less."""
    parents = [network(6, seed, True) for seed in range(2)]
    blank = network(3, 7, True)
    options: Mapping[str, Any] = {"closed_form": {"use": False}, "descent": {"epochs": 0}}
    begun = fm.merge(parents, "kf-gradient", data=images, into=blank, **options)
    linear = fm.merge(parents, "kf", data=images, into=blank).model
    torch.testing.assert_close(begun.model(images), linear(images))
    options = {"closed_form": {"use": False}, "descent": {"epochs": 20}}
    later = fm.merge(parents, "kf-gradient", data=images, into=blank, **options)
    assert begun.decisions[0]["loss"] < 1e-10
    assert later.decisions[1]["loss"] < begun.decisions[1]["loss"]


def test_importance_is_that_of_each_width(images: Tensor) -> None:
    labels = torch.arange(len(images)) % 3
    parents = [network(6, 0, True), network(4, 1, True)]
    options: Mapping[str, Any] = {
        "attribution": "conductance", "loss": {"levels": "weighted"}, "descent": {"epochs": 1},
    }  # fmt: skip
    fused = fm.merge(
        parents, "kf-gradient", data=images[:40], labels=labels[:40], into=network(3, 7, True), **options
    )
    assert all(value.isfinite().all() for value in fused.model.state_dict().values())
    assert [each["neurons"] for each in fused.decisions] == [3, 3, 6, 3]


@pytest.mark.parametrize(("method", "options"), METHODS, ids=["kf", "kf-gradient"])
def test_blocks_of_group_norm_cannot_change_in_number(
    method: str, options: dict[str, Any], images: Tensor
) -> None:
    """Groups of group norm move whole, so other widths have nothing to pair; the sentence names the layer."""

    def grouped(width: int) -> nn.Module:
        given = {"width": width, "norm": "group"}
        spec = ModelSpec(name="resnet18", in_channels=1, n_classes=3, image_size=8, options=given)
        return build(spec, 0).eval()

    with refused("conv1", "8", "4"):
        fm.merge([grouped(8), grouped(8)], method, data=images[:20], into=grouped(4), **options)
