from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fedmerge.models.heads import (
    apply_head,
    check_head,
    evaluating,
    features,
    features_and_logits,
    find_head,
    group_of,
)
from fedmerge.seeding import seeded
from tests.facts import refused

# where torchvision's source puts the last layer of each family, and a small image the family takes
FAMILIES = {
    "alexnet": ("classifier.6", 64),
    "convnext_tiny": ("classifier.2", 32),
    "densenet121": ("classifier", 32),
    "efficientnet_b0": ("classifier.1", 32),
    "googlenet": ("fc", 32),
    "mnasnet0_5": ("classifier.1", 32),
    "mobilenet_v2": ("classifier.1", 32),
    "mobilenet_v3_small": ("classifier.3", 32),
    "regnet_y_400mf": ("fc", 32),
    "resnet18": ("fc", 32),
    "shufflenet_v2_x0_5": ("fc", 32),
    "squeezenet1_0": ("classifier", 64),  # a convolution, then ReLU and pooling, all of them the head
    "swin_t": ("head", 32),
    "vgg11_bn": ("classifier.6", 32),
    "vit_b_32": ("heads.head", 224),
}


class Wrapped(nn.Module):
    """A plain module whose forward does ``after`` to what its layers give."""

    def __init__(self, after: object = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 6), nn.ReLU(), nn.Dropout(0.5))
        self.out = nn.Linear(6, 5)
        self.after = after

    def forward(self, x: Tensor) -> object:
        logits = self.out(self.body(x))
        return self.after(logits) if callable(self.after) else logits


@pytest.fixture
def images() -> Tensor:
    return torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_of_every_torchvision_family(name: str) -> None:
    head, size = FAMILIES[name]
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with seeded(0, "test"), torch.no_grad():
        model = torchvision.models.get_model(name, weights=None, num_classes=5, **more).eval()
        x = torch.rand(2, 3, size, size)
        assert find_head(model, x) == head
        torch.testing.assert_close(apply_head(model, head, features(model, head, x)), model(x))


def test_a_plain_module_and_its_features(images: Tensor) -> None:
    model = Wrapped().eval()
    inputs, logits = features_and_logits(model, "out", images)
    assert find_head(model, images) == "out"
    torch.testing.assert_close(inputs, model.body(images))
    torch.testing.assert_close(logits, model(images))


def test_features_are_not_copied(images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.Identity(), nn.Linear(48, 5))
    kept = []
    model[1].register_forward_hook(lambda module, args, output: kept.append(output))
    assert features(model, "3", images) is kept[0]


def test_a_parametrised_last_layer_is_found_by_its_module(images: Tensor) -> None:
    """With weight norm the last parameters are those of ``out.parametrizations.weight``."""
    model = Wrapped()
    nn.utils.parametrizations.weight_norm(model.out)
    assert find_head(model, images) == "out"


def test_what_follows_the_last_layer_without_parameters_belongs_to_the_head(images: Tensor) -> None:
    head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Softmax(dim=1))
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), head)
    assert find_head(model, images) == "2"


def test_neither_training_flags_nor_hooks_are_left_behind(images: Tensor) -> None:
    model = Wrapped().train()
    model.body[3].eval()
    find_head(model, images)
    assert model.training
    assert model.out.training
    assert not model.body[3].training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_evaluating_restores_flags_after_an_error() -> None:
    model = Wrapped().train()
    model.out.register_forward_hook(lambda module, args, output: 1 / module.training)
    with pytest.raises(ZeroDivisionError), evaluating(model):
        model(torch.zeros(1, 3, 4, 4))
    assert model.out.training


def test_group_of_takes_whole_names() -> None:
    """``fc2.weight`` is not inside ``fc``."""
    assert [group_of(key, "fc") for key in ("fc.weight", "fc.0.bias", "fc2.weight", "conv.fc.weight")] == [
        "head",
        "head",
        "encoder",
        "encoder",
    ]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Wrapped(lambda logits: logits * 2), ("out", "head=", "Wrapped")),
        (Wrapped(lambda logits: {"scores": logits}), ("dict", "Wrapped")),
        (Wrapped(lambda logits: logits.sum(dim=1)), (2, "Wrapped", "N")),
        (nn.Flatten(), ("Flatten", "parameters")),
        (nn.Linear(4, 5), ("Linear", "parameters")),
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), ("'1'", "parameters")),
    ],
)
def test_a_model_without_a_head_is_a_sentence(
    model: nn.Module, words: tuple[object, ...], images: Tensor
) -> None:
    with refused(*words):
        find_head(model, images)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("outt", ("outt", "out", "body")),
        ("", ("''", "module")),
        ("body.2", ("body.2", "Wrapped")),
        ("body", ("logits", "body")),
    ],
)
def test_a_wrong_head_named_by_hand_is_a_sentence(
    head: str, words: tuple[object, ...], images: Tensor
) -> None:
    with refused(*words):
        check_head(Wrapped(), head, images)


def test_a_head_used_twice_is_a_sentence() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 4)
            self.out = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.out(self.stem(x)))

    with refused("2 times", "out"):
        check_head(Twice(), "out", torch.ones(2, 4))
    with refused("turns", "Twice"):
        find_head(Twice(), torch.ones(2, 4))
