"""A whole run of each task: local training, fusion, a node at the unseen hospital; resumed, the same bits."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fedmerge as fm
from fedmerge.data import Arrays, CohortSpec
from fedmerge.tasks import TASKS, task_of

CORNERS = [(0, 0), (0, 4), (4, 0)]


def quarters(present: np.ndarray, seed: int) -> np.ndarray:
    """8 x 8 grey images over noise; quarter f is bright where ``present``, N x 3, has a 1."""
    images = np.random.default_rng(seed).integers(0, 90, (len(present), 8, 8))
    for image, findings in zip(images, present, strict=True):
        for (row, column), there in zip(CORNERS, findings, strict=True):
            image[row : row + 4, column : column + 4] += 90 * there
    return images.clip(0, 255).astype(np.uint8)


def arrays(task: str, seed: int, n: int = 90) -> Arrays:
    """Findings: which quarters are bright; grades: how many are; yes or no: whether the first is."""
    present = np.random.default_rng(seed).integers(0, 2, (n, 3))
    labels = {"multilabel": present, "ordinal": present.sum(1), "binary": present[:, 0]}[task]
    return Arrays(quarters(present, seed), labels)


def experiment(task: str) -> dict[str, Any]:
    sites = [{"name": name, "source": arrays(task, i), "unseen": name == "u"} for i, name in enumerate("abu")]
    return {
        "name": task,
        "cohort": CohortSpec.model_validate({"name": task, "task": task, "sites": sites}),
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "threads": 1,
        "training": {
            "rounds": 3,
            "epochs": 3,
            "batch_size": 8,
            "lr": 0.05,
            "class_weights": "balanced",
            "fine_tune": {"epochs": 1},
        },
        "fusion": ["mean", "greedy", "ensemble-probabilities"],
        "testtime": ["entropy-adaptive", "stream-adaptive"],
        "evaluation": {"batch_size": 16, "streams": ["iid", {"dirichlet": 0.1}]},
    }


@pytest.mark.parametrize("task", ["multilabel", "ordinal", "binary"])
def test_a_run_learns_and_a_resumed_one_has_its_bits(task: str, tmp_path: Path, monkeypatch) -> None:
    result = fm.run(experiment(task), out=tmp_path / "whole")
    headline = TASKS[task].headline
    assert result.failed == 0
    assert (result.metric, result.headline) == (headline, headline)
    assert set(result.table["task"]) == {task}
    assert result.experiment.selection == headline
    summary = result.summary()
    assert summary.loc["mean", "iid"] > 0.7
    assert summary.loc["entropy-adaptive", "worth"]
    assert summary.loc["majority-class", "constant"] == 1
    if task == "multilabel":
        each = [result.table[f"auroc: {finding}"] for finding in "012"]
        assert np.allclose(np.mean(each, axis=0), result.table["auroc"])
    assert (tmp_path / "whole" / "report.html").is_file()
    pool = fm.ModelPool(tmp_path / "whole" / "seed-0" / "federation" / "pool", create=False)
    assert task_of(pool.model("a")).name == task
    if task == "multilabel" or os.environ.get("FEDMERGE_SLOW"):  # the others take as long again
        _resumed(task, tmp_path, monkeypatch, result.table)


def _resumed(task: str, tmp_path: Path, monkeypatch, whole: pd.DataFrame) -> None:
    """Stop a run before its node is measured, go on with it, and compare."""
    from fedmerge.experiment.stages import evaluate

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "adapt", stop)
        with pytest.raises(KeyboardInterrupt):
            fm.run(experiment(task), out=tmp_path / "stopped")
    again = fm.run(resume=tmp_path / "stopped", config=experiment(task))
    times = ["seconds", "config_hash", "versions"]
    pd.testing.assert_frame_equal(
        again.table.drop(columns=times), whole.drop(columns=times), check_exact=True
    )


def test_where_all_images_are_of_one_kind_a_score_is_not_defined_and_the_run_ends_well(
    tmp_path: Path,
) -> None:
    """Nobody at ``empty`` and ``coast`` has a finding: their AUROC is no number, and no part of any mean."""

    def without(given: Arrays) -> Arrays:
        none = np.zeros_like(given.labels)
        return Arrays(given.images, none, class_names=given.class_names)

    config = experiment("multilabel")
    full, other = arrays("multilabel", 0), arrays("multilabel", 1)
    cohort = {
        "name": "few", "task": "multilabel", "minimum": {"classes": 0},
        "sites": [
            {"name": "north", "source": full}, {"name": "empty", "source": without(other)},
            {"name": "coast", "source": without(full), "unseen": True},
        ],
    }  # fmt: skip
    config["cohort"] = CohortSpec.model_validate(cohort)
    config |= {"fusion": ["mean", "greedy"], "testtime": ["entropy-adaptive"]}
    result = fm.run(config, out=tmp_path / "run")
    assert result.failures.empty, result.failures["reason"].tolist()
    assert result.table["auroc"].isna().all()
    assert result.table["average_precision"].isna().all()
    validation = result.table.groupby("method")["validation"].first()
    assert math.isnan(validation["alone:empty"])
    assert validation["entropy-adaptive"] == validation["alone:north"] > 0
    assert "AUROC is not defined at coast" in result.answer
    assert "of 100 images" not in (tmp_path / "run" / "report.html").read_text()
