from __future__ import annotations

import torch

from fedmerge.data.images.images import Split, concat, resize, to_channels
from tests.facts import refused


def test_select_and_concat_keep_images_with_their_labels() -> None:
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    split = Split(images, torch.arange(6))
    joined = concat((split.select(torch.tensor([4, 1])), split.select(torch.tensor([5]))))
    assert joined.labels.tolist() == [4, 1, 5]
    assert joined.images.flatten().tolist() == [4, 1, 5]


def grouped(*groups: int) -> Split:
    zeros = torch.zeros(len(groups), dtype=torch.int64)
    numbers = torch.tensor(groups, dtype=torch.int64)
    return Split(zeros.to(torch.uint8).view(-1, 1, 1, 1), zeros, numbers)


def test_groups_go_with_their_images() -> None:
    joined = concat((grouped(7, 9, 9).select(torch.tensor([2, 0])), grouped(), grouped(9)))
    assert joined.groups.tolist() == [9, 7, 9]
    alone = Split(joined.images, joined.labels)
    assert alone.select(torch.tensor([0])).groups is None
    assert concat((joined, alone)).groups is None


def test_groups_of_splits_apart_are_never_the_same() -> None:
    """The same pairs as (split, group): what was one group still is, and nothing else is."""
    splits = (grouped(7, -2, 7), grouped(), grouped(-2, 8, 7, 8))
    pairs = [(k, group) for k, split in enumerate(splits) for group in split.groups.tolist()]
    groups = concat(splits, apart=True).groups.tolist()
    assert len(set(pairs)) == len(set(groups)) == len(set(zip(pairs, groups, strict=True)))


def test_class_counts_cover_absent_classes() -> None:
    split = Split(torch.zeros(3, 1, 1, 1, dtype=torch.uint8), torch.tensor([2, 0, 2]))
    assert split.class_counts(4).tolist() == [1, 0, 2, 0]


def test_a_split_refuses_floats_and_unequal_lengths() -> None:
    with refused("uint8", "Tensor"):
        Split(torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64))
    with refused(2, "length", "int64"):
        Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    two = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    for groups in (torch.zeros(2), torch.zeros(3, dtype=torch.int64)):
        with refused("int64", "Tensor", 2, "length", "groups"):
            Split(*two, groups)


def test_resize_keeps_a_constant_image_and_halving_averages() -> None:
    """A constant stays constant. Antialiased halving is a triangle filter of width 4 at each side of 2 px;
    on columns 0 0 200 200 its weights 3/7 3/7 1/7 (normalised at the edge) give 200/7 = 29 and 171."""
    constant = torch.full((2, 3, 12, 9), 77, dtype=torch.uint8)
    assert resize(constant, 20).unique().tolist() == [77]
    step = torch.tensor([0, 0, 200, 200], dtype=torch.uint8).repeat(4, 1)[None, None]
    assert resize(step, 2)[0, 0].tolist() == [[29, 171], [29, 171]]


def test_grey_to_rgb_and_back_is_the_identity() -> None:
    """The luma weights 0.299 + 0.587 + 0.114 sum to one."""
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    rgb = to_channels(grey, 3)
    assert rgb.shape == (1, 3, 16, 16)
    assert torch.equal(to_channels(rgb, 1), grey)


def test_luma_of_pure_green() -> None:
    """0.587 * 255 = 149.7, so 150."""
    green = torch.tensor([0, 255, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert to_channels(green, 1).item() == 150
