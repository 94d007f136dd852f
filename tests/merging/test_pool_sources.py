"""Models of a pool are built by their own cards, and merged only where the cards agree."""

from __future__ import annotations

import pytest

from fedmerge.merging import merge
from fedmerge.models import ModelPool, ModelSpec, Normalisation, build
from tests.facts import refused
from tests.merging.own_networks import fused


def test_a_pool_builds_each_network_by_its_own_card(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Two vision transformers of the same shapes, with 2 and 4 heads of attention."""
    specs = [
        ModelSpec(
            name="tiny-vit", in_channels=1, n_classes=3, image_size=8,
            options={"dim": 8, "depth": 1, "heads": heads, "patch": 4},
        )
        for heads in (2, 4)
    ]  # fmt: skip
    pool = ModelPool(tmp_path / "pool")
    for name, spec in zip("ab", specs, strict=True):
        pool.add(
            name, build(spec, 0 if name == "a" else 1).state_dict(), model=spec, method="initialisation",
            normalisation=Normalisation.named("half"), class_names=("x", "y", "z"),
        )  # fmt: skip
    with refused("'a'", "'b'", "networks"):
        merge(pool, "mean")


@pytest.mark.parametrize("method", ["ensemble-logits", "ensemble-features", "distill", "fisher"])
def test_networks_of_a_pool_are_checked_on_two_images(tmp_path, monkeypatch, method: str) -> None:  # type: ignore[no-untyped-def]
    """Against ones that are built as always: a lazily built one could lack what no state holds."""
    from fedmerge.models.loading import network_of

    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})
    pool = ModelPool(tmp_path / "pool")
    for seed, name in enumerate("ab"):
        pool.add(
            name, build(spec, seed).state_dict(), model=spec, method="initialisation",
            normalisation=Normalisation.named("half"), class_names=("x", "y", "z"),
        )  # fmt: skip
    fused(pool, method, start=pool.model("a"))

    def lazily(*given):  # type: ignore[no-untyped-def]
        net = network_of(*given)
        net.features[1].eps = 1.0
        return net

    monkeypatch.setattr("fedmerge.merging.parents.network_of", lazily)
    with refused("answer", "itself"):
        fused(pool, method, start=pool.model("a"))


def test_cards_with_other_classes_are_not_merged(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=8, options={"width": 4})
    pool = ModelPool(tmp_path / "pool")
    for name, normalisation in (("a", "half"), ("b", "none")):
        pool.add(
            name, build(spec, 0).state_dict(), model=spec, method="initialisation",
            normalisation=Normalisation.named(normalisation), class_names=("x", "y"),
        )  # fmt: skip
    with refused("'a'", "'b'", "normalisations"):
        merge(pool, "mean")
