from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from fedmerge.data import Split, scanner
from fedmerge.data.images.images import resize, to_channels
from fedmerge.data.scanner import SHIFTS, Appearance
from fedmerge.data.sources.sources import load_source
from fedmerge.seeding import generator
from tests.facts import refused

KINDS = sorted(SHIFTS)


def change(images: torch.Tensor, kind: str, severity: int, seed: int = 0) -> float:
    after = scanner.apply(images, [Appearance(kind=kind, severity=severity)], seed, "north")
    return (after.float() - images.float()).abs().mean().item()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("side", [8, 16, 21])
@pytest.mark.parametrize("kind", KINDS)
def test_more_severe_changes_more_on_real_digits(digits: Split, kind: str, side: int, seed: int) -> None:
    images = resize(digits.images[:200], side)
    images = to_channels(images, 3) if kind == "tint" else images
    changes = [change(images, kind, severity, seed) for severity in range(1, 6)]
    assert changes[0] > 0
    assert all(low < high for low, high in pairwise(changes)), changes


@pytest.mark.parametrize("kind", KINDS)
def test_more_severe_changes_more_on_real_blood_cells(real: Callable[[str], Path], kind: str) -> None:
    images = load_source(f"npz:{real('wbc_tecom_64.npz')}").val.images
    changes = [change(images, kind, severity) for severity in range(1, 6)]
    assert all(low < high for low, high in pairwise(changes)), changes


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_site_see_the_same(tiny: Callable[..., Split], kind: str) -> None:
    images = tiny(4, channels=3, side=9).images
    look = [Appearance(kind=kind, severity=3)]
    first = scanner.apply(images, look, 0, "north")
    assert first.dtype == torch.uint8
    assert first.shape == images.shape
    assert torch.equal(first, scanner.apply(images, look, 0, "north"))


@pytest.mark.parametrize("kind", ["noise", "bias-field", "tint"])
def test_another_site_or_seed_sees_otherwise(tiny: Callable[..., Split], kind: str) -> None:
    images = tiny(4, channels=3).images
    look = [Appearance(kind=kind, severity=3)]
    first = scanner.apply(images, look, 0, "north")
    assert not torch.equal(first, scanner.apply(images, look, 0, "harbour"))
    assert not torch.equal(first, scanner.apply(images, look, 1, "north"))


@pytest.mark.parametrize("kind", ["blur", "contrast", "pixelate"])
@pytest.mark.parametrize("side", [8, 9, 31])
def test_a_flat_image_has_nothing_to_lose(kind: str, side: int) -> None:
    """Averages of a constant are the constant, at edges and cut blocks too."""
    flat = torch.full((1, 3, side, side), 90, dtype=torch.uint8)
    assert torch.equal(scanner.apply(flat, [Appearance(kind=kind, severity=5)], 0, "a"), flat)


def test_brightness_moves_every_pixel_by_the_stated_amount() -> None:
    """0.06 * 2 * 255 = 30.6 up or down from 128, so 159 or 97."""
    grey = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    values = {
        scanner.apply(grey, [Appearance(kind="brightness", severity=2)], seed, "a").unique().item()
        for seed in range(12)
    }
    assert values == {159, 97}


def test_pixelate_two_is_four_fifths_of_the_way_to_blocks_of_two() -> None:
    """At 8 px b = 2. Of each block (0, 0, 0, 1) the mean is 1/4: pixels 0 -> 0.8 / 4 = 0.2, 1 -> 0.4."""
    image = torch.zeros(1, 1, 8, 8)
    image[..., 1::2, 1::2] = 1
    out = scanner.pixelate(image, 2, generator(0, "unused"))
    expected = torch.tensor([[0.2, 0.2], [0.2, 0.4]]).repeat(4, 4)
    torch.testing.assert_close(out[0, 0], expected)


def test_noise_has_the_stated_deviation() -> None:
    """0.04 * 3 = 0.12; the standard error of a deviation over n pixels is sigma / sqrt(2 n): 5 of them."""
    grey = torch.full((8, 3, 32, 32), 0.5)
    noise = scanner.noise(grey, 3, generator(0, "test")) - grey
    assert noise.std().item() == pytest.approx(0.12, abs=5 * 0.12 / (2 * grey.numel()) ** 0.5)


def test_a_bias_field_is_one_field_for_all_images_and_reaches_its_amplitude() -> None:
    ones = torch.ones(2, 3, 16, 16)
    field = scanner.bias_field(ones, 2, generator(0, "test")) - 1
    assert torch.equal(field[0, 0], field[1, 2])
    assert field.abs().max().item() == pytest.approx(0.3)


def test_appearances_come_one_after_the_other(tiny: Callable[..., Split]) -> None:
    """Blur then noise is not noise then blur, and the empty list changes nothing."""
    images = tiny(3).images
    blur, noise = Appearance(kind="blur", severity=5), Appearance(kind="noise", severity=5)
    both = scanner.apply(images, [blur, noise], 0, "a")
    assert not torch.equal(both, scanner.apply(images, [noise, blur], 0, "a"))
    assert torch.equal(scanner.apply(images, [], 0, "a"), images)


def test_a_tint_of_grey_images_is_refused(tiny: Callable[..., Split]) -> None:
    with refused("north", "channels: 3"):
        scanner.apply(tiny(2).images, [Appearance(kind="tint", severity=1)], 0, "north")


def test_an_appearance_refuses_unknown_kinds_and_severities() -> None:
    with refused("blurr", "blur", kind=ValidationError):
        Appearance(kind="blurr", severity=1)
    with refused("equal", "5", kind=ValidationError):
        Appearance(kind="blur", severity=6)
