"""A run that begins from a file of weights: what it begins with, and when the file must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from facts import refused

from fedmerge import run
from fedmerge.experiment.folder.run_manifest import read_begun
from fedmerge.models.weights import load_weights, write_weights
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.storage.files import digest
from fedmerge.workflows.rewrite import write_again

NAME = "begin.safetensors"


@pytest.fixture
def begin(experiment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights of the tiny experiment's network, in the data folder."""
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    spec = ModelSpec(name="small-cnn", options={"width": 4}, in_channels=1, n_classes=3, image_size=8)
    write_weights(tmp_path / NAME, build(spec, seed=9).state_dict())
    return tmp_path / NAME


def config(experiment: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = experiment | {"fusion": ["mean"], "testtime": [], "normalisation": "half", "threads": 1}
    return given | {"model": experiment["model"] | {"pretrained": NAME}} | more


def still(experiment: dict[str, Any]) -> dict[str, Any]:
    """Training that moves nothing: no rounds, no step of the fine-tuning has a length."""
    return {"training": experiment["training"] | {"rounds": 0, "fine_tune": {"epochs": 1, "lr": 1e-30}}}


def test_hospitals_begin_with_the_weights_of_the_file(
    experiment: dict[str, Any], begin: Path, tmp_path: Path
) -> None:
    folder = run(config(experiment, **still(experiment)), out=tmp_path / "run").folder
    given = load_weights(begin)
    for path in sorted(folder.glob("**/pool/*.safetensors")):
        trained = load_weights(path)
        moved = [key for key, value in given.items() if not torch.allclose(trained[key], value, 0, 1e-20)]
        assert all("running" in key or "tracked" in key for key in moved)
    found = read_begun(folder)
    assert found is not None
    assert found.start == digest(begin)


def test_a_finished_run_is_read_without_the_file(
    experiment: dict[str, Any], begin: Path, tmp_path: Path
) -> None:
    folder = run(config(experiment), out=tmp_path / "run").folder
    begin.unlink()
    assert write_again(folder, None, [])[1].is_file()
    with refused(NAME, tmp_path, "FEDMERGE_DATA"):
        run(config(experiment), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "facts"),
    [({"normalisation": "default"}, (NAME, "normalisation")), ({"start": "independent"}, ("start: shared",))],
)
def test_what_a_file_does_not_go_with(
    change: dict[str, Any], facts: tuple[str, ...], experiment: dict[str, Any], begin: Path, tmp_path: Path
) -> None:
    given = config(experiment)
    if "start" in change:
        given["training"] = experiment["training"] | {"rounds": 0} | change
    else:
        given |= change
    with refused(*facts):
        run(given, out=tmp_path / "run")
