"""Scanners that drift while the images arrive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.data import scanner, streams
from fedmerge.data.scanner import Appearance
from fedmerge.data.shown import drifted
from fedmerge.seeding import generator
from tests.facts import refused


@given(n=st.integers(0, 200))
def test_a_drift_rises_and_falls_in_equal_stretches(n: int) -> None:
    """Nine stretches of n // 9 or one more; where all nine have an image, each step is one severity."""
    severities = streams.severities(n)
    assert severities.shape == (n,)
    assert severities.dtype == np.int64
    stretches = [np.count_nonzero(np.arange(n) * 9 // max(n, 1) == k) for k in range(9)]
    assert all(n // 9 <= length <= -(-n // 9) for length in stretches)
    assert severities.tolist() == np.repeat([1, 2, 3, 4, 5, 4, 3, 2, 1], stretches).tolist()


def test_a_drifting_scanner_shows_each_image_at_the_severity_of_its_place() -> None:
    """27 images, three a stretch. Contrast keeps an image's own mean m and scales what it differs from it by
    1 - 0.14 s; half black and half white at mean 127.5 it shows 127.5 +- 127.5 (1 - 0.14 s), rounded."""
    images = torch.zeros(27, 1, 4, 4, dtype=torch.uint8)
    images[:, :, :2] = 255
    order = np.random.default_rng(0).permutation(27)
    seen = drifted(images, order, "contrast", 0, "north")
    spread = (seen.amax((1, 2, 3)).int() - seen.amin((1, 2, 3)).int())[torch.from_numpy(order)]
    expected = [255 * (1 - 0.14 * s) for s in (1, 2, 3, 4, 5, 4, 3, 2, 1) for _ in range(3)]
    assert spread.tolist() == pytest.approx(expected, abs=1)
    assert images.unique().tolist() == [0, 255]


@pytest.mark.parametrize("shift", ["noise", "bias-field", "brightness"])
def test_a_drift_is_one_scanner_and_repeats(shift: str) -> None:
    """The same seed and site give the same bits, those of the site's scanner at each image's severity."""
    images = torch.randint(0, 256, (20, 3, 8, 8), generator=generator(0, "drift test"), dtype=torch.uint8)
    order = np.random.default_rng(1).permutation(20)
    seen = drifted(images, order, shift, 3, "north")
    assert torch.equal(seen, drifted(images, order, shift, 3, "north"))
    for place, severity in zip(order, streams.severities(20), strict=True):
        look = [Appearance(kind=shift, severity=int(severity))]
        assert torch.equal(seen[place], scanner.apply(images, look, 3, "north")[place])
    others = [drifted(images, order, shift, seed, site) for seed in range(9) for site in ("a", "b")]
    assert any(not torch.equal(seen, other) for other in others)


def test_a_drift_of_no_images_is_empty() -> None:
    images = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
    assert drifted(images, np.empty(0, dtype=np.int64), "blur", 0, "north").shape == images.shape


def test_a_drift_is_of_the_images_that_arrive() -> None:
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with refused(3, "4 images"):
        drifted(images, np.arange(3), "contrast", 0, "north")
    with refused("contrst", "contrast"):
        drifted(images, np.arange(4), "contrst", 0, "north")
    with refused("uint8", "torch.float32"):  # divided by 255 they would be nearly black
        drifted(images.float(), np.arange(4), "contrast", 0, "north")
