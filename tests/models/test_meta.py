"""On the meta device a network has the tensors of one in memory, and nothing is drawn."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from fedmerge.models.meta import on_meta
from fedmerge.models.zoo import ModelSpec, build

SPECS = [
    ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4}),
    ModelSpec(name="tiny-vit", in_channels=1, n_classes=3, image_size=8, options={"dim": 8, "patch": 4}),
    ModelSpec(name="torchvision:resnet18", in_channels=3, n_classes=3, image_size=32),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_network_has_the_tensors_of_one_in_memory(spec: ModelSpec) -> None:
    with on_meta():
        bare = build(spec, 0).state_dict()
    whole = build(spec, 0).state_dict()
    assert all(value.is_meta for value in bare.values())
    assert {key: (value.shape, value.dtype) for key, value in bare.items()} == {
        key: (value.shape, value.dtype) for key, value in whole.items()
    }


def test_what_is_in_memory_is_initialised_there_too() -> None:
    """With the very draws that it has outside; every way to call an initialisation returns its tensor."""
    expected = nn.init.normal_(torch.empty(5), generator=torch.Generator().manual_seed(0))
    with on_meta():
        here = torch.empty(5, device="cpu")
        assert nn.init.normal_(here, generator=torch.Generator("cpu").manual_seed(0)) is here
        bare = torch.empty(5, 2)
        assert nn.init.kaiming_uniform_(tensor=bare) is bare
        assert bare.normal_() is bare
    assert here.equal(expected)


def test_a_network_is_loaded_without_importing_the_compiler() -> None:
    code = """
import sys
from fedmerge.models.loading import network_of
from fedmerge.models.zoo import ModelSpec, build

spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})
network_of(spec, build(spec, 0).state_dict(), "a")
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
