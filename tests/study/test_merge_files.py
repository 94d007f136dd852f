from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedmerge.errors import FedMergeError
from fedmerge.merging import merge
from fedmerge.models import ModelPool, ModelSpec, Normalisation, build
from fedmerge.models.pool import read_card
from fedmerge.study.merge_files import merge_files

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})


@pytest.fixture
def files(tmp_path):
    """Two files of weights, without cards."""
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, path in enumerate(paths):
        save_file(build(SPEC, seed).state_dict(), path)
    return paths


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A source of 30 grey images of 8 px, three classes, in MedMNIST's form; its name."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (30, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(30) % 3).astype(np.uint8)[:, None]
    np.savez(tmp_path / "small.npz", **arrays)
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    return "npz:small.npz"


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
    merge_files(files, tmp_path / "out.safetensors", "task-arithmetic", start=files[0], changes=["scale=0.5"])
    a, b, out = (load_file(path) for path in (*files, tmp_path / "out.safetensors"))
    torch.testing.assert_close(
        out["head.weight"], a["head.weight"] + 0.5 * (b["head.weight"] - a["head.weight"])
    )


def test_a_network_by_name_and_images_give_what_the_function_gives(files, images, tmp_path):
    out = tmp_path / "kf.safetensors"
    merge_files(files, out, "kf", network="small-cnn:width=4", data=images, images=12, changes=["tries=2"])
    fused = build(SPEC, 0).eval()
    fused.load_state_dict(load_file(out))
    nets = [build(SPEC, seed).eval() for seed in (0, 1)]
    x = torch.rand(5, 1, 8, 8)
    assert not torch.allclose(fused(x), nets[0](x))
    again = tmp_path / "again.safetensors"
    merge_files(files, again, "kf", network="small-cnn:width=4", data=images, images=12, changes=["tries=2"])
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
    merge_files(paths, out, "rebasin", data=images)
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
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    for models, output, method, options, words in [
        (files, files[0], "mean", {}, "must be a new file"),
        (files, tmp_path / "new.pt", "mean", {}, "ends in .safetensors"),
        (files, out, "ensemble-logits", {}, "is not one network"),
        (files, out, "maen", {}, "Did you mean 'mean'"),
        (files, out, "mean", {"changes": ["weigths=uniform"]}, "Did you mean 'weights'"),
        ([files[0], tmp_path / "c.safetensors"], out, "mean", {}, "there is no file"),
        ([files[0], broken], out, "mean", {}, "not a whole safetensors file"),
        (files, out, "kf", {}, "give them with --data"),
        (files, out, "kf", {"data": images}, "name it with --model"),
        (files, out, "kf", {"data": images, "network": "small-cnn:width"}, "NAME=VALUE"),
        (files, out, "mean", {"network": "small-cnn:width=4"}, "say in_channels too"),
        (files, out, "greedy", {"data": images}, "--labelled"),
        (files, out, "task-arithmetic", {}, "give --start"),
        (files, tmp_path / "nowhere" / "new.safetensors", "mean", {}, "there is no folder"),
        (files, tmp_path / f"{'x' * 5000}.safetensors", "mean", {}, "File name too long"),
        (files, out, "kf", {"data": images, "network": "small-cnn:width=8"}, "not of one architecture"),
        (files, out, "kf", {"data": images, "network": "smal-cnn"}, "small-cnn"),
        (files, out, "kf", {"data": images, "network": "small-cnn:width=4", "split": "all"}, "unknown split"),
        (
            files,
            out,
            "mean",
            {"after": "repair"},
            "with --after repair needs fusion images: give them with --data",
        ),
    ]:
        with pytest.raises(FedMergeError, match=words):
            merge_files(models, output, method, **options)
    assert not out.exists()
