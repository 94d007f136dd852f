from __future__ import annotations

import pytest
import torch
from facts import refused
from safetensors.torch import load_file, save_file
from torch import nn

from fedmerge.merging import merge
from fedmerge.models import ModelPool, ModelSpec, Normalisation, build
from fedmerge.models.cards import read_card
from fedmerge.workflows.merge_files import merge_files
from fedmerge.workflows.model_files import FusionImages, spec_of

SMALL = "small-cnn:width=4"
SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})


@pytest.fixture
def files(tmp_path):
    """Two files of weights, without cards."""
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, path in enumerate(paths):
        save_file(build(SPEC, seed).state_dict(), path)
    return paths


@pytest.fixture
def images(source_of_images):
    """The name of a source of images."""
    return source_of_images


def test_the_mean_needs_nothing_but_the_files(files, tmp_path):
    result = merge_files(files, tmp_path / "mean.safetensors", "mean")
    a, b, mean = (load_file(path) for path in (*files, tmp_path / "mean.safetensors"))
    assert mean.keys() == a.keys()
    torch.testing.assert_close(mean["head.weight"], (a["head.weight"] + b["head.weight"]) / 2)
    assert mean["features.1.num_batches_tracked"].equal(a["features.1.num_batches_tracked"])
    assert result.coefficients == {"a": 0.5, "b": 0.5}
    assert not (tmp_path / "mean.json").exists()


def test_task_vectors_take_a_start_from_a_file(files, tmp_path):
    """With the first model as the start, its task vector is zero: start + 0.5 (b - start)."""
    merge_files(
        files, tmp_path / "out.safetensors", {"method": "task-arithmetic", "scale": 0.5}, start=files[0]
    )
    a, b, out = (load_file(path) for path in (*files, tmp_path / "out.safetensors"))
    torch.testing.assert_close(
        out["head.weight"], a["head.weight"] + 0.5 * (b["head.weight"] - a["head.weight"])
    )


def test_a_network_by_name_and_images_give_what_the_function_gives(files, images, tmp_path):
    out = tmp_path / "kf.safetensors"
    method, data = {"method": "kf", "tries": 2}, FusionImages(images, images=12)
    merge_files(files, out, method, network=SMALL, data=data)
    fused = build(SPEC, 0).eval()
    fused.load_state_dict(load_file(out))
    nets = [build(SPEC, seed).eval() for seed in (0, 1)]
    x = torch.rand(5, 1, 8, 8)
    assert not torch.allclose(fused(x), nets[0](x))
    again = tmp_path / "again.safetensors"
    merge_files(files, again, method, network=SMALL, data=data)
    assert again.read_bytes() == out.read_bytes()


def test_cards_name_the_network_and_the_result_gets_one(images, tmp_path):
    pool = ModelPool(tmp_path / "pool")
    for seed, name in enumerate("ab"):
        pool.add(
            name,
            build(SPEC, seed).state_dict(),
            model=SPEC,
            normalisation=Normalisation.named("half"),
            class_names=("x", "y", "z"),
            method="initialisation",
        )
    paths = [tmp_path / "pool" / f"{name}.safetensors" for name in "ab"]
    out = tmp_path / "fused.safetensors"
    merge_files(paths, out, "rebasin", data=FusionImages(images))
    card = read_card(tmp_path / "fused.json")
    assert card.model == SPEC
    assert card.method == "rebasin"
    assert card.parents == tuple(pool.card(name).sha256 for name in "ab")
    ModelPool(tmp_path, create=False).verify()  # the card fits the weights
    expected = merge(pool, "mean").model.state_dict()
    merge_files(paths, tmp_path / "mean.safetensors", "mean")
    assert load_file(tmp_path / "mean.safetensors")["head.weight"].equal(expected["head.weight"])


def test_faults_are_sentences_and_nothing_is_written(files, images, tmp_path):
    out = tmp_path / "new.safetensors"
    broken, given = tmp_path / "broken.safetensors", FusionImages(images)
    broken.write_bytes(b"nothing")
    for models, output, method, options, words in [
        (files, files[0], "mean", {}, ("new", "file")),
        (files, tmp_path / "new.pt", "mean", {}, ("new.pt", "safetensors")),
        (files, out, "ensemble-logits", {}, ("network",)),
        (files, out, "maen", {}, ("maen", "mean")),
        (files, out, {"method": "mean", "weigths": "uniform"}, {}, ("weights", "mean")),
        ([files[0], tmp_path / "c.safetensors"], out, "mean", {}, ("file",)),
        ([files[0], broken], out, "mean", {}, ("whole", "safetensors", "file")),
        (files, out, "kf", {}, ("--data",)),
        (files, out, "kf", {"data": given}, ("name", "--model")),
        (files, out, "kf", {"data": given, "network": "small-cnn:width"}, ("NAME=VALUE",)),
        (files, out, "mean", {"network": SMALL}, ("in_channels",)),
        (files, out, "greedy", {"data": given}, ("--labelled",)),
        (files, out, "task-arithmetic", {}, ("--start",)),
        (files, tmp_path / "nowhere" / "new.safetensors", "mean", {}, ("folder",)),
        (files, tmp_path / f"{'x' * 5000}.safetensors", "mean", {}, ("File", "name", "long")),
        (files, out, "kf", {"data": given, "network": "small-cnn:width=8"}, ("architecture",)),
        (files, out, "kf", {"data": given, "network": "smal-cnn"}, ("small-cnn",)),
        (
            files,
            out,
            "kf",
            {"data": FusionImages(images, "all"), "network": SMALL},
            ("unknown", "split"),
        ),
        (
            files,
            out,
            {"method": "mean", "after": "repair"},
            {},
            ("--after", "repair", "--data"),
        ),
    ]:
        with refused(*words):
            merge_files(models, output, method, **options)
    assert not out.exists()


class Buffered(nn.Module):
    """A parameter and a floating-point buffer, whose names say what they are, or do not."""

    def __init__(self, weight: float, buffer: float, name: str = "offset") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.register_buffer(name, torch.tensor([buffer]))


def saved(path, model):
    save_file(model.state_dict(), path)
    return path


def test_one_rule_for_buffers_in_files_and_in_modules(tmp_path):
    """From a start of 0 by 0.3 (1 + 3): a parameter is 1.2, a buffer the mean, 2. A file does not say."""
    start, nets = Buffered(0.0, 0.0), [Buffered(1.0, 1.0), Buffered(3.0, 3.0)]
    files = [saved(tmp_path / f"{i}.safetensors", net) for i, net in enumerate(nets)]
    begin = saved(tmp_path / "start.safetensors", start)
    fused = merge(nets, "task-arithmetic", start=start).model
    assert (fused.weight.item(), fused.offset.item()) == (pytest.approx(1.2), 2.0)
    out = tmp_path / "out.safetensors"
    for method in ("task-arithmetic", "ties", "dare", "model-stock"):
        with refused("offset", method, "parameter", "buffer"):
            merge_files(files, out, method, start=begin)
    merge_files(files, tmp_path / "mean.safetensors", "mean")
    mean = load_file(tmp_path / "mean.safetensors")
    assert (mean["weight"].item(), mean["offset"].item()) == (2.0, 2.0)
    same = [saved(tmp_path / f"same{i}.safetensors", Buffered(v, 7.0)) for i, v in enumerate((0.0, 1.0, 3.0))]
    merge_files(same[1:], out, "task-arithmetic", start=same[0])
    found = load_file(out)
    assert (found["weight"].item(), found["offset"].item()) == (pytest.approx(1.2), 7.0)


def test_files_of_wrapped_models_are_taken_and_their_keys_put_right(files, tmp_path):
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        wrapped = tmp_path / f"{prefix}safetensors"
        save_file({prefix + key: value for key, value in load_file(files[1]).items()}, wrapped)
        plain, out = tmp_path / f"plain{prefix}safetensors", tmp_path / f"out{prefix}safetensors"
        merge_files(files, plain, "mean")
        merge_files([files[0], wrapped], out, "mean")
        assert {k: v.tolist() for k, v in load_file(out).items()} == {
            k: v.tolist() for k, v in load_file(plain).items()
        }
        named = tmp_path / f"named{prefix}safetensors"
        merge_files(
            [wrapped, wrapped],
            named,
            "mean",
            network="small-cnn:width=4,in_channels=1,n_classes=3,image_size=8",
        )
        assert load_file(named).keys() == load_file(files[0]).keys()


def test_entries_that_no_merge_knows_are_refused_by_name(tmp_path):
    odd = {
        "index": ({"w": torch.ones(1), "index": torch.tensor([1])}, ("index", "int64")),
        "float8": ({"w": torch.ones(1).to(torch.float8_e5m2)}, ("w", "float8_e5m2")),
        "norm": ({"weight_g": torch.ones(2, 1), "weight_v": torch.ones(2, 3)}, ("weight_g", "weight norm")),
    }
    for name, (state, words) in odd.items():
        first, second = tmp_path / f"{name}1.safetensors", tmp_path / f"{name}2.safetensors"
        save_file(state, first)
        save_file(state | ({"index": torch.tensor([2])} if "index" in state else {}), second)
        with refused(*words):
            merge_files([first, second], tmp_path / f"{name}.safetensors", "mean")


def test_cards_that_disagree_are_refused(tmp_path):
    pool = ModelPool(tmp_path / "pool")
    other = ModelPool(tmp_path / "other")
    for place, name, classes in ((pool, "a", ("x", "y", "z")), (other, "b", ("x", "z", "y"))):
        place.add(
            name, build(SPEC, 0).state_dict(), model=SPEC, method="initialisation",
            normalisation=Normalisation.named("half"), class_names=classes,
        )  # fmt: skip
    paths = [tmp_path / "pool" / "a.safetensors", tmp_path / "other" / "b.safetensors"]
    with refused("a", "b", "different"):
        merge_files(paths, tmp_path / "out.safetensors", "mean")


def test_the_classes_are_those_of_the_head_wherever_it_stands_in_the_file():
    """Files sort their entries: of a ResNet's the head, fc, is not the last."""
    made = build(
        ModelSpec(name="resnet18", in_channels=1, n_classes=7, image_size=8, options={"width": 4}), 0
    )
    state = dict(sorted(made.state_dict().items()))
    assert not list(state)[-1].startswith("fc")
    spec = spec_of("resnet18:width=4,in_channels=1,image_size=8", None, state, None)
    assert spec is not None
    assert spec.n_classes == 7
    with refused("n_classes"):
        spec_of("resnet18:width=4,in_channels=1,image_size=8", None, {}, None)
