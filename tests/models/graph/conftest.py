"""Networks followed once and shared by all tests here; all that starts as zeros or ones is random."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fedmerge.models import ModelSpec, build
from fedmerge.models.graph import Program


class Followed:
    """A network in evaluation mode, its program, and its state dict (float32)."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model = model.eval()
        self.images = images
        self.program = Program(model, images)
        self.state: Mapping[str, Tensor] = {k: v.detach() for k, v in model.state_dict().items()}
        self.values = self.program.values(self.state)


def zoo(name: str, **options: object) -> nn.Module:
    return build(ModelSpec(name=name, in_channels=3, n_classes=5, image_size=32, options=options), 0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 5)), 4),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(6 * 36, 5)
        ),
        8,
    ),
    "small-cnn": (lambda: zoo("small-cnn"), 32),
    "small-cnn group norm": (lambda: zoo("small-cnn", norm="group"), 32),
    "vgg11": (lambda: zoo("vgg11"), 32),
    "resnet18": (lambda: zoo("resnet18"), 32),
    "resnet18 group norm": (lambda: zoo("resnet18", norm="group"), 32),
    "tiny-vit": (lambda: zoo("tiny-vit"), 32),
    "tiny-vit mean": (lambda: zoo("tiny-vit", pool="mean"), 32),
    "efficientnet-lite0": (lambda: zoo("efficientnet-lite0"), 32),
    "torchvision resnet18": (torchvision.models.resnet18, 32),
    "torchvision vgg11": (lambda: _narrow(torchvision.models.vgg11()), 32),
    "torchvision vit": (
        lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 16, 32, num_classes=5),
        32,
    ),
    "torchvision shufflenet": (torchvision.models.shufflenet_v2_x0_5, 32),
    "torchvision mobilenet": (torchvision.models.mobilenet_v3_small, 32),
    "torchvision densenet": (lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5), 32),
}


def _narrow(vgg: nn.Module) -> nn.Module:
    """VGG-11 with its two hidden layers of 4096 made 64 wide."""
    vgg.classifier = nn.Sequential(
        nn.Linear(512 * 49, 64),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(64, 64),
        nn.ReLU(True),
        nn.Linear(64, 5),
    )
    return vgg


@pytest.fixture(scope="session")
def followed() -> Callable[[str], Followed]:
    known: dict[str, Followed] = {}

    def get(name: str) -> Followed:
        if name not in known:
            make, side = NETWORKS[name]
            with torch.random.fork_rng():
                torch.manual_seed(1)
                model = make()
                for value in model.state_dict().values():
                    if value.is_floating_point() and (value.ndim <= 1 or not value.any()):
                        value.add_(torch.rand_like(value))
                known[name] = Followed(model, torch.rand(2, 3, side, side))
        return known[name]

    return get
