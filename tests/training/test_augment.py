from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedmerge.training.augment import AUGMENTATIONS, augment, contrast, flip, rotate, shift, zoom
from tests.facts import refused


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=draws(7), dtype=torch.uint8)


def test_flip_mirrors_about_half_of_the_images() -> None:
    """Each image is itself or its mirror image; of 400, 200 +- 5 standard deviations (10) are mirrored."""
    images = noise(400, 2, 3, 4)
    flipped = flip(images, draws())
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) | mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


@pytest.mark.parametrize("axis", [2, 3])
def test_shift_moves_by_up_to_an_eighth_and_reflects(axis: int) -> None:
    """On a ramp of side 16 the result along the axis is |i + d| mirrored at 15, for one d of -2..2."""
    ramp = torch.arange(16, dtype=torch.uint8)
    images = (ramp.view(16, 1) if axis == 2 else ramp.view(1, 16)).expand(200, 3, 16, 16)
    moved = shift(images, draws())
    lines = moved.movedim(axis, -1)
    assert (lines == lines[:, :1, :1]).all()
    expected = {
        tuple(15 - abs(15 - abs(i + d)) for i in range(16)): d for d in range(-2, 3)
    }  # -2: 2 1 0 1 2 ..., +2: 2 3 ... 15 14 13
    seen = {expected[tuple(line)] for line in lines[:, 0, 0].tolist()}
    assert seen == {-2, -1, 0, 1, 2}


def test_shift_of_a_one_pixel_image_is_the_image() -> None:
    images = noise(4, 1, 1, 1)
    assert torch.equal(shift(images, draws()), images)


def test_rotate_turns_without_stretching() -> None:
    """The ramp 4 x has gradient (4, 0); turned by t it is 4 (cos t, sin t): length 4, |sin t| <= sin 15.

    On images that are not square, so that the aspect ratio counts. Slopes are taken over 10 pixels around
    the centre, where rounding to whole numbers costs at most 0.1.
    """
    images = (4 * torch.arange(41)).to(torch.uint8).expand(50, 1, 31, 41)
    turned = rotate(images, draws())[:, 0].double()
    across = (turned[:, 15, 25] - turned[:, 15, 15]) / 10
    down = (turned[:, 20, 20] - turned[:, 10, 20]) / 10
    assert (torch.hypot(across, down) - 4).abs().max() < 0.15
    assert 0.9 < down.abs().max() < 4 * 0.2589 + 0.1
    assert (turned[:, 15, 20] == 80).all()


def test_zoom_scales_both_axes_alike() -> None:
    """Ramps 4 x and 4 y, scaled by s, have the slope 4 / s, of one s an image from 1/1.2 to 1.2."""
    ramp = (4 * torch.arange(41)).to(torch.uint8).expand(41, 41)
    images = torch.stack([ramp, ramp.T]).expand(50, 2, 41, 41)
    scaled = zoom(images, draws()).double()
    across = (scaled[:, 0, 20, 25] - scaled[:, 0, 20, 15]) / 10
    down = (scaled[:, 1, 25, 20] - scaled[:, 1, 15, 20]) / 10
    assert (across - down).abs().max() < 0.15
    assert 4 / 1.2 - 0.1 < across.min() < 3.6
    assert 4.4 < across.max() < 4 * 1.2 + 0.1


def test_contrast_scales_about_the_mean() -> None:
    """Values 80 and 120 become 100 -+ 20 f, of one f an image from 1/1.2 to 1.2."""
    images = torch.tensor([80, 120], dtype=torch.uint8).repeat(3, 8, 4).expand(100, 3, 8, 8)
    changed = contrast(images, draws()).double()
    low, high = changed[..., 0::2], changed[..., 1::2]
    assert ((low + high) == 200).all()
    spread = (high - low)[:, 0, 0, 0]
    assert ((high - low) == spread.view(-1, 1, 1, 1)).all()
    assert 32 <= spread.min() < 36
    assert 44 < spread.max() <= 48


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_an_augmentation_keeps_shape_and_type_and_a_flat_image(name: str) -> None:
    images = torch.full((5, 3, 9, 7), 130, dtype=torch.uint8)
    changed = augment(images, [name], draws())
    assert changed.dtype == torch.uint8
    assert torch.equal(changed, images)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_draws_come_from_the_generator_alone(name: str) -> None:
    images = noise(32, 1, 12, 12)
    assert torch.equal(augment(images, [name], draws(1)), augment(images, [name], draws(1)))
    assert not torch.equal(augment(images, [name], draws(1)), augment(images, [name], draws(2)))


def test_an_unknown_name_is_a_sentence() -> None:
    with refused("flop", "flip", "rotate"):
        augment(noise(1, 1, 4, 4), ["flop"], draws())
