"""Weights in a file to begin from: what fits, what is brought to fit, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedmerge.models.start_file import start_digest
from fedmerge.models.state import State
from fedmerge.models.zoo import ModelSpec, build, default_normalisation
from tests.facts import refused


def spec(
    name: str = "small-cnn", channels: int = 3, classes: int = 3, size: int = 28, **more: Any
) -> ModelSpec:
    return ModelSpec(name=name, in_channels=channels, n_classes=classes, image_size=size, **more)


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[State], str]:
    """Write a state into the data folder; the name of the file there."""
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))

    def written(state: State) -> str:
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "start.safetensors")
        return "start.safetensors"

    return written


Keep = Callable[[State], str]


def same(network: nn.Module, state: State, but: tuple[str, ...] = ()) -> bool:
    return all(
        torch.equal(value, state[key])
        for key, value in network.state_dict().items()
        if not key.startswith(but or ("-",))
    )


def test_all_but_a_head_of_other_classes_is_the_files(keep: Keep) -> None:
    trained = build(spec(classes=9), seed=5).state_dict()
    made = build(spec(pretrained=keep(trained)), seed=0)
    head = next(reversed(made.state_dict())).rpartition(".")[0]
    assert same(made, trained, (head,))
    assert made.get_submodule(head).weight.shape[0] == 3
    drawn = build(spec(), seed=0).get_submodule(head).weight
    assert torch.equal(made.get_submodule(head).weight, drawn), "the head is as the seed draws it"


def test_a_head_of_the_same_classes_is_the_files_too(keep: Keep) -> None:
    trained = build(spec(), seed=5).state_dict()
    assert same(build(spec(pretrained=keep(trained)), seed=0), trained)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(keep: Keep, prefix: str) -> None:
    trained = build(spec(), seed=5).state_dict()
    wrapped = {prefix + key: value for key, value in trained.items()}
    assert same(build(spec(pretrained=keep(wrapped)), seed=0), trained)


def test_half_precision_becomes_the_networks(keep: Keep) -> None:
    trained = {
        k: v.half() if v.is_floating_point() else v for k, v in build(spec(), seed=5).state_dict().items()
    }
    made = build(spec(pretrained=keep(trained)), seed=0)
    assert {value.dtype for value in made.parameters()} == {torch.float32}
    assert all(torch.equal(value, trained[key].to(value.dtype)) for key, value in made.state_dict().items())


def test_grey_images_are_answered_as_three_equal_channels(keep: Keep) -> None:
    trained = build(spec(), seed=5)
    name = keep(trained.state_dict())
    grey = build(spec(channels=1, pretrained=name), seed=0).eval()
    image = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grey(image), trained.eval()(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_a_first_convolution_of_other_channels_is_drawn(keep: Keep) -> None:
    trained = build(spec(), seed=5).state_dict()
    made, drawn = build(spec(channels=4, pretrained=keep(trained)), seed=0), build(spec(channels=4), seed=0)
    first = next(key for key, value in drawn.state_dict().items() if value.ndim == 4)
    assert torch.equal(made.state_dict()[first], drawn.state_dict()[first])
    assert same(made, trained, (first,))


def test_position_embeddings_of_other_image_sizes_are_interpolated(keep: Keep) -> None:
    """A plane a + b row + c column is what bicubic interpolation keeps exactly, but near the border."""
    trained = build(spec("vit-s14", size=14 * 10), seed=5).state_dict()
    key = "encoder.pos_embedding"
    centre = torch.arange(10) + 0.5
    plane = 1 + 2 * centre[:, None] + 3 * centre[None]
    trained[key] = torch.cat([torch.full((1, 1, 384), -7.0), plane.reshape(1, 100, 1).expand(-1, -1, 384)], 1)
    made = build(spec("vit-s14", size=14 * 5, pretrained=keep(trained)), seed=0).state_dict()[key]
    assert made.shape == (1, 26, 384)
    assert (made[:, 0] == -7).all()
    centre = 2 * (torch.arange(5) + 0.5)
    wanted = (1 + 2 * centre[:, None] + 3 * centre[None])[1:-1, 1:-1]
    grid: Tensor = made[0, 1:].reshape(5, 5, 384)[1:-1, 1:-1]
    torch.testing.assert_close(grid, wanted[..., None].expand(-1, -1, 384), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_named(keep: Keep) -> None:
    good = build(spec(), seed=5).state_dict()
    keys = [key for key, value in good.items() if value.ndim == 4]
    wide = build(spec(options={"width": 5}), seed=5).state_dict()
    with refused(keys[0], tuple(wide[keys[0]].shape), tuple(good[keys[0]].shape)):
        build(spec(pretrained=keep(wide)), seed=0)
    with refused(keys[1], "start.safetensors"):
        build(spec(pretrained=keep({key: value for key, value in good.items() if key != keys[1]})), seed=0)
    with refused("strange.weight"):
        build(spec(pretrained=keep(good | {"strange.weight": torch.ones(1)})), seed=0)
    with refused(keys[1], "finite"):
        build(spec(pretrained=keep(good | {keys[1]: torch.full_like(good[keys[1]], torch.nan)})), seed=0)


def test_another_file_than_the_one_that_it_began_with_is_refused(keep: Keep) -> None:
    name = keep(build(spec(), seed=5).state_dict())
    begun = spec(pretrained=name, start_sha256=start_digest(name))
    build(begun, seed=0)
    keep(build(spec(), seed=6).state_dict())
    with refused(name):
        build(begun, seed=0)


def test_files_that_are_not_there_or_of_another_kind(keep: Keep, tmp_path: Path) -> None:
    with refused("nowhere.safetensors", str(tmp_path), "FEDMERGE_DATA"):
        build(spec(pretrained="nowhere.safetensors"), seed=0)
    with refused("net.pth", ".safetensors"):
        build(spec(pretrained="net.pth"), seed=0)
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with refused("bad.safetensors"):
        build(spec(pretrained="bad.safetensors"), seed=0)


def test_a_specification_is_written_as_before_where_no_file_is_given() -> None:
    assert "start_sha256" not in spec().model_dump()
    assert spec(pretrained="a", start_sha256="b").untrained() == spec()


def test_a_transformer_takes_multiples_of_its_patches() -> None:
    with refused("vit-s14", 14, 96, "size"):
        build(spec("vit-s14", size=96), seed=0)
    vit = build(spec("vit-s14", size=28, classes=4), seed=0)
    # 14 x 14 patches of 3 channels, 5 tokens, 12 blocks of 12 d^2 + 13 d, a layer norm, a head
    d = 384
    assert (
        sum(v.numel() for v in vit.parameters())
        == 588 * d + d + d + 5 * d + 12 * (12 * d * d + 13 * d) + 2 * d + 4 * d + 4
    )
    assert default_normalisation(spec("vit-s14", size=28)).mean == default_normalisation(spec()).mean
