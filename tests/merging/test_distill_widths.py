"""Distillation into another width: the student begins as the module given, and learns from its teachers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedmerge as fm
from fedmerge.models import ModelSpec, build
from tests.facts import refused

X = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
QUICK = {"epochs": 40, "lr": 1e-2}


def net(width: int, seed: int, classes: int = 3) -> nn.Module:
    spec = ModelSpec(
        name="resnet18", in_channels=1, n_classes=classes, image_size=8, options={"width": width}
    )
    return build(spec, seed).eval()


def distilled(models: list[nn.Module], **options: Any) -> nn.Module:
    return fm.merge(models, "distill", data=X, seed=1, **{"descent": QUICK, **options}).model


@torch.no_grad()
def distance(model: nn.Module, targets: Tensor) -> float:
    return float((model(X).softmax(1) - targets).abs().mean())


def test_a_narrow_student_comes_near_its_wide_teachers() -> None:
    teachers, student = [net(4, 0), net(6, 1)], net(2, 2).train()  # its running statistics must not move
    with torch.no_grad():
        targets = torch.stack([teacher(X).softmax(1) for teacher in teachers]).mean(0)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    start = distilled(teachers, into=student, student="into", descent={"epochs": 0})
    found = distilled(teachers, into=student, student="into")
    assert found.conv1.weight.shape == student.conv1.weight.shape
    assert distance(found, targets) < 0.8 * distance(start, targets)
    assert all(value.equal(before[key]) for key, value in student.state_dict().items())
    assert not found.training


def test_without_an_epoch_the_student_is_what_was_given() -> None:
    student = net(2, 2)
    found = distilled([net(4, 0), net(4, 1)], into=student, student="into", descent={"epochs": 0})
    assert all(value.equal(student.state_dict()[key]) for key, value in found.state_dict().items())


def test_where_widths_agree_the_first_model_given_as_into_is_the_same_start() -> None:
    models = [net(2, 0), net(2, 1)]
    first, same = distilled(models), distilled(models, into=models[0], student="into")
    assert all(value.equal(same.state_dict()[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("student", ["first", "mean"])
def test_a_student_of_another_width_than_the_model_to_be_made_is_refused(student: str) -> None:
    with refused("conv1.weight", "into"):
        distilled([net(4, 0), net(4, 1)], into=net(2, 2), student=student)


def test_what_cannot_be_distilled_is_named() -> None:
    with refused("into="):
        distilled([net(2, 0), net(2, 1)], student="into")
    with refused("model-1", "4 outputs"):
        distilled([net(2, 0), net(2, 1, classes=4)])
    with refused("the model to be made", "4 outputs"):
        distilled([net(2, 0), net(2, 1)], into=net(2, 1, classes=4), student="into")
