"""Lineage from cards, a card as a hub's README, and exports that answer as the model does."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from facts import refused
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.models import ModelPool, export
from fedmerge.models.cards import Origin
from fedmerge.models.inputs import Normalisation
from fedmerge.models.lineage import find_model, lineage, models_below
from fedmerge.models.predict import predict
from fedmerge.models.zoo import ModelSpec, build

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})
HALF = Normalisation.named("half")


@pytest.fixture
def folder(tmp_path):
    """Two hospitals' models, their mean in a folder of its own, and one made of that and of a lost one."""
    common = {
        "model": SPEC,
        "normalisation": HALF,
        "class_names": ("a", "b", "c"),
        "metrics": {"validation": 0.5},
    }
    pool = ModelPool(tmp_path / "pool")
    cards = [
        pool.add(name, build(SPEC, seed).state_dict(), method="local training", **common)
        for seed, name in enumerate(("north", "south"))
    ]
    fused = ModelPool(tmp_path / "fused")
    mean = fused.add(
        "mean", build(SPEC, 2).state_dict(), method="mean", origin=Origin([c.sha256 for c in cards]), **common
    )
    fused.add(
        "again", build(SPEC, 3).state_dict(), method="kf", origin=Origin([mean.sha256, "0" * 64]), **common
    )
    return tmp_path


def test_ancestors_are_found_by_hash_wherever_they_lie(folder):
    known, faults = models_below(folder)
    assert [each.place for each in known] == ["fused/again", "fused/mean", "pool/north", "pool/south"]
    assert not faults
    again = known[0]
    assert list(lineage(again, known)) == [
        (0, "fused/again: kf"),
        (1, "fused/mean: mean"),
        (2, "pool/north: local training"),
        (2, "pool/south: local training"),
        (1, "000000000000…: its file is not here"),
    ]


def test_a_card_as_a_hubs_readme_has_a_yaml_head_and_the_lineage(folder):
    printed = CliRunner().invoke(
        app, ["models", "show", str(folder / "fused/mean"), "--card", "--among", str(folder)]
    )
    _, head, body = printed.stdout.split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "image-classification"
    assert "small-cnn" in yaml.safe_load(head)["tags"]
    for fact in ("# mean", "a, b, c", "1 x 8 x 8", "  - pool/north: local training", "not a medical device"):
        assert fact in body
    listed = json.loads(CliRunner().invoke(app, ["models", "list", str(folder), "--json"]).stdout)
    assert [each["name"] for each in listed] == ["again", "mean", "north", "south"]


def test_torchscript_takes_stored_images_and_answers_as_the_model(folder):
    found = find_model(folder / "fused" / "mean.safetensors")
    output = folder / "mean.pt"
    assert export.export(found.path, found.card, output) <= export.NEAR
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    own = predict(ModelPool(folder / "fused").model("mean"), images, HALF)
    torch.testing.assert_close(torch.jit.load(output)(images), own, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_takes_stored_images_and_answers_as_the_model(folder):
    runtime = pytest.importorskip("onnxruntime")
    found = find_model(folder / "fused" / "mean")
    output = folder / "mean.onnx"
    export.export(found.path, found.card, output)
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    (logits,) = runtime.InferenceSession(output).run(None, {"images": images.numpy()})
    own = predict(ModelPool(folder / "fused").model("mean"), images, HALF)
    torch.testing.assert_close(torch.from_numpy(logits), own, rtol=1e-4, atol=1e-5)


def test_an_export_that_answers_otherwise_is_not_written(folder, monkeypatch):
    found = find_model(folder / "fused" / "mean")
    monkeypatch.setattr(export, "_run_torchscript", lambda made: lambda images: torch.zeros(len(images), 3))
    with refused("mean", "TorchScript", "not written"):
        export.export(found.path, found.card, folder / "mean.pt")
    assert not (folder / "mean.pt").exists()
    for name, facts in (("mean.h5", (".pt or .onnx",)), ("pool/north.json", (".pt or .onnx",))):
        with refused(*facts):
            export.export(found.path, found.card, folder / name)


def test_what_is_no_model_is_a_sentence(folder):
    with refused("no model with a card", "Did you mean 'mean'"):
        find_model(folder / "fused" / "meen")
    (folder / "pool" / "north.json").write_text("{}")
    known, faults = models_below(folder)
    assert len(known) == 3
    assert "north.json" in faults[0]
    (folder / "empty").mkdir()
    with refused("holds no model", "empty"):
        models_below(folder / "empty")
