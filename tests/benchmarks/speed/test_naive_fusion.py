from __future__ import annotations

import pytest
import torch
from facts import refused
from torch import Tensor, nn

import fedmerge as fm
from benchmarks.speed import naive_fusion

PAPER = {"solver": "pinv", "towards": "zero", "cost": "l2"}  # what the authors' program does


def initialised(chain: nn.Sequential, seed: int) -> nn.Sequential:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in chain.parameters():
            p.normal_(0, p[0].numel() ** -0.5 if p.ndim > 1 else 0.2, generator=rng)
    return chain.double().eval()


def mlp(seed: int) -> nn.Sequential:
    return initialised(nn.Sequential(nn.Flatten(), nn.Linear(50, 32), nn.ReLU(), nn.Linear(32, 10)), seed)


def conv(seed: int) -> nn.Sequential:
    """Three convolutions, one with a stride and one without bias, on images of 8 px."""
    return initialised(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(12, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, 5),
        ),
        seed,
    )


MAKE = {"mlp": mlp, "conv": conv}


def drawn(kind: str, count: int, seed: int) -> Tensor:
    shape = (50,) if kind == "mlp" else (3, 8, 8)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).double()


@torch.no_grad()
def check(found: nn.Module, wanted: nn.Module, x: Tensor) -> None:
    """Outputs are equal to 1e-5 of the largest."""
    a, b = found(x), wanted(x)
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("kind", MAKE)
def test_hungarian_fusion_equals_the_naive_one(kind: str) -> None:
    models, x = [MAKE[kind](seed) for seed in range(2)], drawn(kind, 100, 9)
    found = fm.merge(models, "hf", data=x, **PAPER).model
    check(found, naive_fusion.hungarian(*models, x), drawn(kind, 50, 10))
    check(found, naive_fusion.hungarian(*models, x, pairwise=True), drawn(kind, 50, 10))


@pytest.mark.parametrize("parents", [2, 3, 4])
@pytest.mark.parametrize("kind", MAKE)
def test_kmeans_fusion_equals_the_naive_one(kind: str, parents: int) -> None:
    models, x = [MAKE[kind](seed) for seed in range(parents)], drawn(kind, 100, 9)
    found = fm.merge(models, "kf", data=x, seed=3, tries=4, **PAPER).model
    check(found, naive_fusion.kmeans(models, x, seed=3, tries=4, again=False), drawn(kind, 50, 10))


def test_fewer_images_than_inputs_equal_the_naive_one() -> None:
    """30 images, 51 inputs: of all weights that fit, both take those of least norm; unseen images tell."""
    models, x = [mlp(seed) for seed in range(2)], drawn("mlp", 30, 9)
    check(
        fm.merge(models, "hf", data=x, **PAPER).model,
        naive_fusion.hungarian(*models, x),
        drawn("mlp", 50, 10),
    )
    found = fm.merge(models, "kf", data=x, tries=3, **PAPER).model
    check(found, naive_fusion.kmeans(models, x, tries=3, again=False), drawn("mlp", 50, 10))


def test_measuring_all_distances_again_changes_no_pick() -> None:
    models, x = [mlp(seed) for seed in range(2)], drawn("mlp", 30, 9)
    one, two = (naive_fusion.kmeans(models, x, tries=2, again=again) for again in (False, True))
    check(one, two, x)


def test_what_is_no_plain_chain_is_refused() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    with refused("understand", "BatchNorm2d", kind=TypeError):
        naive_fusion.hungarian(chain, chain, drawn("conv", 2, 0))
