from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from fedmerge.schema.validation import validate
from fedmerge.training.augment import AUGMENTATIONS, Augmentation, augment
from fedmerge.training.options import TrainingOptions
from tests.facts import refused


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    return augment(images, ["flip"], generator)


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    return augment(images, ["shift"], generator)


def rotate(images: Tensor, generator: torch.Generator) -> Tensor:
    return augment(images, ["rotate"], generator)


def zoom(images: Tensor, generator: torch.Generator) -> Tensor:
    return augment(images, ["zoom"], generator)


def contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    return augment(images, ["contrast"], generator)


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
    assert changed.shape == images.shape
    if name not in ("brightness", "gamma"):  # which change values wherever they stand
        assert torch.equal(changed, images)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_draws_come_from_the_generator_alone(name: str) -> None:
    images = noise(32, 1, 12, 12)
    assert torch.equal(augment(images, [name], draws(1)), augment(images, [name], draws(1)))
    assert not torch.equal(augment(images, [name], draws(1)), augment(images, [name], draws(2)))


def test_an_unknown_name_is_a_sentence() -> None:
    with refused("flop", "flip", "rotate"):
        validate(TrainingOptions, {"augment": ["flop"]}, "training")


def factors(count: int, most: float) -> list[float]:
    """The factors that are drawn, by the formula: most to the power of u in -1 to 1."""
    return (most ** (2 * torch.rand(count, generator=draws()) - 1)).tolist()


def padded(images: Tensor, by: int) -> Tensor:
    """Images with borders that reflect, the border's own pixels too."""
    return functional.pad(images, [by], padding_mode="symmetric")


def test_rotate_is_torchvision_s_with_a_border_that_reflects() -> None:
    """To one level: angles in degrees, counter-clockwise there, the other way here (y points down)."""
    images = noise(12, 1, 24, 24)
    angles = (2 * torch.rand(12, generator=draws()) - 1) * 15
    for image, angle, found in zip(images, angles.tolist(), rotate(images, draws()), strict=True):
        turned = functional.rotate(padded(image[None], 8), angle, InterpolationMode.BILINEAR)
        expected = functional.center_crop(turned, [24, 24])[0]
        assert (expected.int() - found.int()).abs().max() <= 1, angle


def test_zoom_is_torchvision_s_with_a_border_that_reflects() -> None:
    images = noise(12, 1, 24, 24)
    for image, factor, found in zip(images, factors(12, 1.2), zoom(images, draws()), strict=True):
        scaled = functional.affine(
            padded(image[None], 8), 0, [0, 0], factor, [0, 0], InterpolationMode.BILINEAR
        )
        expected = functional.center_crop(scaled, [24, 24])[0]
        assert (expected.int() - found.int()).abs().max() <= 1, factor


def test_brightness_scales_values_and_cuts_them() -> None:
    images = torch.tensor([10, 100, 250], dtype=torch.uint8).expand(6, 1, 4, 3)
    changed = augment(images, [Augmentation(name="brightness", factor=2)], draws())
    for factor, found in zip(factors(6, 2), changed, strict=True):
        expected = (torch.tensor([10.0, 100.0, 250.0]) * factor).clamp(max=255)
        assert (found[0, 0].float() - expected).abs().max() <= 1


def test_gamma_raises_shares_of_255_to_a_power() -> None:
    images = torch.tensor([0, 64, 255], dtype=torch.uint8).expand(6, 1, 4, 3)
    changed = augment(images, [Augmentation(name="gamma", factor=2)], draws())
    for power, found in zip(factors(6, 2), changed, strict=True):
        expected = 255 * torch.tensor([0.0, 64 / 255, 1.0]) ** power
        assert (found[0, 0].float() - expected).abs().max() <= 1


def test_blur_keeps_the_sum_of_a_point_and_sharpness_a_straight_ramp() -> None:
    point = torch.zeros(8, 1, 21, 21, dtype=torch.uint8)
    point[:, :, 10, 10] = 255
    blurred = augment(point, [Augmentation(name="blur", sigma=1.5)], draws())
    assert (blurred[:, 0, 10, 10] < 255).any()
    assert ((blurred.int().sum((1, 2, 3)) - 255).abs() < 30).all()  # half a level of rounding in each pixel
    ramp = (5 * torch.arange(20)).to(torch.uint8).expand(8, 1, 20, 20)
    assert torch.equal(augment(ramp, ["sharpness"], draws()), ramp)


def test_options_say_how_far_and_how_often() -> None:
    images = noise(400, 1, 9, 9)
    seldom = augment(images, [Augmentation(name="rotate", degrees=40, probability=0.25)], draws())
    changed = int((seldom != images).flatten(1).any(1).sum())
    assert 60 < changed < 140  # 100 and 4.6 standard deviations of 8.7
    far = Augmentation(name="shift", share=0.5)
    ramp = torch.arange(16, dtype=torch.uint8).expand(200, 1, 16, 16)
    assert {int(line[0]) for line in far(ramp, draws())[:, 0, 0]} == set(range(9))


def test_only_those_that_are_not_usual_are_written() -> None:
    options = TrainingOptions.model_validate({"augment": ["flip", {"name": "rotate", "degrees": 5}]})
    assert options.model_dump(mode="json")["augment"] == ["flip", {"name": "rotate", "degrees": 5.0}]
    assert TrainingOptions.model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({"name": "rotate", "factor": 2}, ("'rotate'", "no option factor", "degrees and probability")),
        ({"name": "flip", "share": 0.1}, ("'flip'", "no option share", "probability alone")),
        ({"name": "zoom", "factor": 1}, ("factor of 'zoom' is 1", "above 1", "up to 4")),
        ({"name": "shift", "share": 0.6}, ("share of 'shift' is 0.6", "up to 0.5")),
        ({"name": "rotat"}, ("'rotat'", "'rotate'")),
    ],
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], facts: tuple[str, ...]) -> None:
    with refused(*facts):
        validate(TrainingOptions, {"augment": [given]}, "training")
