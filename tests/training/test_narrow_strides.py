"""Networks with narrow strided convolutions train on channels-last images, with the heap as it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from fedmerge.models.narrow_strides import is_unsound
from fedmerge.models.resnet import resnet18
from fedmerge.seeding import Draws
from fedmerge.training import TrainingOptions, fit

TRAIN = """
import torch
from torch import nn
from fedmerge.seeding import Draws
from fedmerge.training import TrainingOptions, fit

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
images = torch.randint(0, 256, (90, 4, 14, 14), dtype=torch.uint8)
images = images.contiguous(memory_format=torch.channels_last)
options = TrainingOptions(lr=0.01, batch_size=9, epochs=2)
fit(net, images, torch.arange(90) % 2, options, normalise=lambda x: x.float() / 255, draws=Draws(0))
print("trained")
"""


def test_the_heap_is_as_it_was_after_training_on_channels_last_images() -> None:
    """glibc checks each block as it is freed, and ends the process where somebody wrote past one."""
    checked = os.environ | {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    done = subprocess.run([sys.executable, "-c", TRAIN], env=checked, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "trained"), done.stderr[-1000:]


@pytest.mark.parametrize(("channels", "planes"), [(2, True), (7, True), (8, False)])
def test_only_where_the_kernel_is_unsound_images_are_laid_out_anew(channels: int, planes: bool) -> None:
    """While it trains, and by nothing that stays; a wide one gets its images as they lie."""
    strided, seen = nn.Conv2d(channels, 8, 1, 2), list[bool]()
    strided.register_forward_hook(lambda module, given, made: seen.append(given[0].is_contiguous()))
    net = nn.Sequential(strided, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    images = torch.randint(0, 256, (8, channels, 6, 6), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    options = TrainingOptions(lr=0.01, batch_size=4, epochs=1)
    fit(net, images, torch.arange(8) % 2, options, normalise=lambda x: x.float() / 255, draws=Draws(0))
    assert seen == [planes, planes]
    assert not strided._forward_pre_hooks


def test_the_narrow_resnets_are_those_with_such_a_convolution() -> None:
    """Beside its stages 2, 3 and 4 a ResNet-18 of width w has 1 x 1 convolutions of w, 2w and 4w inputs."""
    for width in (1, 2, 3, 4, 7, 8):
        net = resnet18(3, 2, 32, width=width)
        assert sum(map(is_unsound, net.modules())) == sum(width * 2**k < 8 for k in range(3))
