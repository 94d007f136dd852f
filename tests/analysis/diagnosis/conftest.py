"""The subject of an analysis of small networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks_of_diagnosis import pixels
from torch import nn

from fedmerge.analysis.diagnosis import Subject


@pytest.fixture
def subject() -> Callable[..., Subject]:
    """``subject(models, **given)``: 60 images of 2 x 2 px, each labelled as the first model sees it."""

    def make(*models: nn.Module, side: int = 2, **given: object) -> Subject:
        images = pixels(side=side)
        with torch.no_grad():
            labels = models[0](images).argmax(1)
        named = {chr(ord("a") + i): model for i, model in enumerate(models)}
        return Subject.of(named, **({"images": images, "labels": labels} | given))

    return make
