"""Several findings an image, grades and yes or no are served as the node in Python answers them."""

from __future__ import annotations

import json
import math

import pytest
import torch

import fedmerge as fm
from fedmerge.models import ModelPool, ModelSpec
from fedmerge.serving.answers import predictions
from fedmerge.tasks import BINARY, MULTILABEL, ORDINAL
from fedmerge.workflows.served import find_models, samples, served
from tests.facts import refused
from tests.serving.conftest import CLASSES, HOSPITALS, drawn, npz, pool_of

IMAGES = drawn(6, seed=3)
BATCH = torch.from_numpy(IMAGES)[:, None].float().div(255).sub(0.5).div(0.5)


def models_for(place, task):
    classes = CLASSES[:2] if task == "binary" else CLASSES
    spec = ModelSpec(
        name="small-cnn", in_channels=1, n_classes=len(classes), image_size=8, options={"width": 4}, task=task
    )
    folder = pool_of(place, spec, classes)
    return folder, [ModelPool(folder).model(name) for name in HOSPITALS]


@pytest.mark.parametrize("task", ["multilabel", "ordinal", "binary"])
def test_a_service_answers_as_the_node_in_python(tmp_path, start, task):
    folder, models = models_for(tmp_path, task)
    client = start("stream-adaptive", place=folder)
    assert client.get("/v1/models").json()["task"] == task
    logits = fm.StreamAdaptive(models)(BATCH)
    answer = client.post("/v1/batches", content=npz(IMAGES)).raise_for_status().json()
    told = answer["images"]
    assert torch.equal(torch.tensor([each["logits"] for each in told]), logits)
    yes = torch.sigmoid(logits)
    found = [list(each["probabilities"].values()) for each in told]
    if task == "multilabel":
        assert found == yes.tolist()
        names = [[name for name, p in zip(CLASSES, row, strict=True) if p > 0.5] for row in yes.tolist()]
        assert [each["predicted"] for each in told] == names
        assert {len(each) for each in names} - {1}  # not one class an image by another name
        bits = -(yes * yes.log() + (1 - yes) * (1 - yes).log()).sum(1) / (3 * math.log(2))
    elif task == "binary":
        assert [row[1] for row in found] == pytest.approx(yes[:, 0].tolist())
        assert [sum(row) for row in found] == pytest.approx([1] * 6)
        assert [each["predicted"] for each in told] == [CLASSES[int(p > 0.5)] for p in yes[:, 0]]
        bits = -(yes * yes.log() + (1 - yes) * (1 - yes).log()).sum(1) / math.log(2)
    else:
        grades = torch.stack([1 - yes[:, 0], yes[:, 0] * (1 - yes[:, 1]), yes[:, 0] * yes[:, 1]], dim=1)
        assert torch.allclose(torch.tensor(found), grades, atol=1e-6)
        median = (grades.cumsum(1) < 0.5).sum(1)
        assert [each["predicted"] for each in told] == [CLASSES[at] for at in median]
        bits = -(grades * grades.log()).sum(1) / math.log(3)
    assert answer["entropy"] == pytest.approx(bits.mean().item(), abs=1e-5)
    (row,) = client.get("/v1/history").json()["batches"]
    every = [name for each in told for name in [each["predicted"]] * isinstance(each["predicted"], str)]
    every += [name for each in told if not isinstance(each["predicted"], str) for name in each["predicted"]]
    assert row["predicted"] == {name: every.count(name) for name in set(every)}


def test_what_is_predicted_and_how_sure_by_hand():
    """Log-odds log 3 are 3 to 1; an absent finding counts with the probability that it is absent."""
    three = math.log(3)
    both, none = predictions(
        ["a", "b"], ("nodule", "mass"), torch.tensor([[three, -three], [-three, -three]]), MULTILABEL
    )
    assert (both.predicted, none.predicted) == (["nodule"], [])
    assert both.probabilities == pytest.approx({"nodule": 0.75, "mass": 0.25})
    assert both.confidence == none.confidence == pytest.approx(0.75)
    (grade,) = predictions(["a"], ("0", "1", "2"), torch.tensor([[three, -three]]), ORDINAL)
    assert grade.predicted == "1"
    assert grade.probabilities == pytest.approx({"0": 1 / 4, "1": 9 / 16, "2": 3 / 16})
    assert grade.confidence == pytest.approx(9 / 16)
    (no,) = predictions(["a"], ("well", "ill"), torch.tensor([[-three]]), BINARY)
    assert (no.predicted, no.confidence) == ("well", pytest.approx(0.75))


def test_a_method_that_is_not_for_the_task_is_refused(tmp_path):
    found = find_models([models_for(tmp_path, "multilabel")[0]])
    with refused("shot", "multilabel"):
        served(found, "shot", device="cpu")
    for method in ("mean", "ensemble-probabilities"):
        assert served(found, method, device="cpu").task is MULTILABEL


def test_samples_of_findings(tmp_path):
    """Of a table with findings, as of classes."""
    from PIL import Image

    folder = models_for(tmp_path / "models", "multilabel")[0]
    rows = ["path,cat,dog,cow"]
    for number, image in enumerate(drawn(60, seed=0)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{number % 2},{int(number < 30)},{int(number % 3 == 0)}")
    (tmp_path / "x.csv").write_text("\n".join(rows) + "\n")
    sites = [{"name": "a"}, {"name": "unseen", "unseen": True}]
    cohort = {"name": "c", "task": "multilabel", "source": f"csv:{tmp_path / 'x.csv'}", "sites": sites}
    cohort["table"] = {"findings": ["cat", "dog", "cow"]}
    run = tmp_path / "run"
    (run / "seed-0" / "without-unseen").mkdir(parents=True)
    folder.rename(run / "seed-0" / "without-unseen" / "pool")
    (run / "config.yaml").write_text(json.dumps({"cohort": cohort}))
    images = samples(find_models([run], "unseen"), "run")
    assert images.shape[1:] == (1, 8, 8)
    assert len(images) in range(20, 33)
