from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from fedmerge.models.copies import unwrapped
from fedmerge.training.conv_layers import following_batch_norm, places, select_convs
from tests.facts import refused


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.resnet18()


def test_the_default_leaves_ten_of_vgg19s_sixteen_convolutions_alone() -> None:
    """The paper's VGG-19 has L_s = 10; its last six convolutions are features 23 to 34."""
    with torch.device("meta"):
        vgg19 = torchvision.models.vgg19()
    expected = [f"features.{index}" for index in (23, 25, 28, 30, 32, 34)]
    assert list(select_convs(vgg19, "all", None)) == list(select_convs(vgg19, "all", 10)) == expected


def test_on_vgg16_the_default_is_a_fraction_and_the_papers_count_is_ten() -> None:
    """13 convolutions: floor(13 x 10/16) = 8 are left alone and 5 merged; the paper's L_s = 10 leaves 3."""
    with torch.device("meta"):
        vgg16 = torchvision.models.vgg16()
    last = [f"features.{index}" for index in (19, 21, 24, 26, 28)]
    assert list(select_convs(vgg16, "spatial", None)) == last
    assert list(select_convs(vgg16, "spatial", 10)) == last[2:]


def test_the_papers_ten_blocks_of_a_resnet34_leave_six() -> None:
    """Four stages of 3, 4, 6 and 3 blocks: blocks 11 to 16 are 4 to 6 of stage 3 and all of stage 4."""
    with torch.device("meta"):
        resnet34 = torchvision.models.resnet34()
    blocks = [f"layer3.{index}" for index in (3, 4, 5)] + [f"layer4.{index}" for index in (0, 1, 2)]
    assert list(select_convs(resnet34, "block-conv2", 10)) == [f"{block}.conv2" for block in blocks]


def test_a_convolution_in_several_places_is_in_the_list_once() -> None:
    """``again`` is the module of ``first``; ``tied`` has its weight alone."""
    model = nn.ModuleDict(
        {"first": nn.Conv2d(3, 3, 3), "other": nn.Conv2d(3, 3, 3), "tied": nn.Conv2d(3, 3, 3)}
    )
    model["again"] = model["first"]
    model["tied"].weight = model["first"].weight
    assert list(select_convs(model, "all", 0)) == ["first", "other"]
    assert list(select_convs(model, "all", 1)) == ["other"]
    assert places(model, model["first"]) == ["first", "tied", "again"]


def test_the_network_inside_wrappers_is_found() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    assert unwrapped(model) is model
    assert unwrapped(torch.compile(nn.DataParallel(model))) is model
    assert unwrapped(nn.DataParallel(torch.compile(model))) is model


def test_block_conv2_is_the_second_convolution_of_each_residual_block(resnet18: nn.Module) -> None:
    """ResNet-18 has four stages of two blocks; the first four blocks are stages 1 and 2."""
    expected = ["layer3.0.conv2", "layer3.1.conv2", "layer4.0.conv2", "layer4.1.conv2"]
    assert list(select_convs(resnet18, "block-conv2", 4)) == expected


def test_spatial_leaves_out_pointwise_and_shortcut_convolutions(resnet18: nn.Module) -> None:
    """ResNet-18 has 20 convolutions, of which three are the 1x1 shortcuts of stages 2 to 4."""
    every, spatial = select_convs(resnet18, "all", 0), select_convs(resnet18, "spatial", 0)
    assert len(every) == 20
    assert set(every) - set(spatial) == {f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)}


@pytest.mark.parametrize(("skip", "left"), [(0, 20), (0.0, 20), (0.5, 10), (0.99, 1), (19, 1), (1, 19)])
def test_skip_is_a_count_or_a_fraction_rounded_down(resnet18: nn.Module, skip: float, left: int) -> None:
    assert len(select_convs(resnet18, "all", skip)) == left


def test_grouped_and_single_filter_convolutions_are_in_no_list() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 1, 3), nn.Conv2d(1, 4, 3))
    assert list(select_convs(model, "all", 0)) == ["2"]


def test_an_empty_selection_says_what_to_set(resnet18: nn.Module) -> None:
    with refused(10, "8 convolutions", 7):
        select_convs(resnet18, "block-conv2", 10)
    with refused("layers=", "all", "Linear"):
        select_convs(nn.Linear(2, 2), "all", 0)


def test_following_batch_norm_is_the_next_sibling_of_the_same_width(resnet18: nn.Module) -> None:
    assert following_batch_norm(resnet18, "layer1.0.conv2") is resnet18.get_submodule("layer1.0.bn2")
    assert following_batch_norm(resnet18, "conv1") is resnet18.get_submodule("bn1")
    assert following_batch_norm(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(3)), "0") is None
    assert following_batch_norm(nn.Sequential(nn.Conv2d(1, 2, 3)), "0") is None
    assert following_batch_norm(nn.Conv2d(1, 2, 3), "") is None
