"""What does not fit a task is said before a run starts, and by methods in Python."""

import numpy as np
import pytest
import torch
from facts import refused
from torch import nn

import fedmerge as fm
from fedmerge.data import Arrays, CohortSpec, build_cohort
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.seeding import Draws
from fedmerge.tasks import MULTILABEL, mark, task_of
from fedmerge.training import TrainingOptions, fit
from fedmerge.workflows.bench.variants import read_bench

SITES = [{"name": "a"}, {"name": "b"}, {"name": "u", "unseen": True}]


def experiment(task: str, source: str = "digit-pairs", **changes: object) -> dict[str, object]:
    cohort = CohortSpec.model_validate(
        {"name": "c", "task": task, "source": source, "size": 16, "sites": SITES}
    )
    return {
        "name": "e",
        "cohort": cohort,
        "model": "small-cnn",
        "training": {"rounds": 1, "fine_tune": {}},
        "fusion": ["mean"],
        "evaluation": {"streams": ["iid"]},
        **changes,
    }


def test_methods_are_refused_with_the_reason():
    with refused("t3a", "multilabel", "lame", "shot", "prototype", "exclude", "half of the images"):
        read_experiment(experiment("multilabel", testtime=["t3a", "lame", "shot", "tent"]))
    with refused("t3a", "ordinal", "grades"):
        read_experiment(experiment("ordinal", "digits", testtime=["t3a", "lame", "shot"]))
    read_experiment(experiment("ordinal", "digits", testtime=["lame", "shot", "memo"]))


def test_attribution_is_refused_and_uniform_is_not():
    data = {"from": "union", "images": 20}
    kf = [{"method": "kf", "attribution": "conductance"}]
    with refused("kf", "multilabel", "attribution: uniform"):
        read_experiment(experiment("multilabel", fusion=kf, fusion_data=data))
    read_experiment(experiment("multilabel", fusion=["kf"], fusion_data=data))


def test_the_selection_follows_the_task():
    assert read_experiment(experiment("multilabel"))[0].selection == "auroc"
    assert read_experiment(experiment("ordinal", "digits"))[0].selection == "kappa"
    assert read_experiment(experiment("multiclass", "digits"))[0].selection == "accuracy"
    assert read_experiment(experiment("multilabel", selection="accuracy"))[0].selection == "accuracy"
    with refused("kappa", "multilabel", "auroc"):
        read_experiment(experiment("multilabel", selection="kappa"))


@pytest.mark.parametrize(
    ("task", "source", "words"),
    [
        ("multiclass", "digit-pairs", ("10 findings", "task: multilabel", "single 1")),
        ("multilabel", "digits", ("one class", "multilabel", "ordinal")),
        ("binary", "digits", ("binary", "10 classes", "multiclass")),
    ],
)
def test_labels_of_another_task_are_a_sentence(task, source, words):
    spec = CohortSpec.model_validate({"name": "c", "task": task, "source": source, "sites": SITES})
    with refused(*words):
        build_cohort(spec, 0)


def test_classes_of_a_site_and_disjoint_ones_are_for_one_class_an_image():
    pairs = {"name": "c", "task": "multilabel", "source": "digit-pairs"}
    with refused("several", "findings", kind=ValueError):
        CohortSpec.model_validate(pairs | {"sites": [{"name": "a", "classes": ["1"]}, {"name": "b"}]})
    with refused("several", "findings", kind=ValueError):
        CohortSpec.model_validate(pairs | {"label_skew": "disjoint", "sites": SITES})


class Net(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(9, outputs)

    def forward(self, x):
        return self.head(x.flatten(1))


def nets(task: str, outputs: int = 2) -> list[nn.Module]:
    torch.manual_seed(0)
    return [mark(Net(outputs), task) for _ in range(2)]


def test_nodes_of_marked_models_know_their_task():
    with refused("t3a", "multilabel"):
        fm.TESTTIME["t3a"].call(nets("multilabel"))
    models, batch = nets("multilabel"), torch.randn(4, 1, 3, 3)
    logits = fm.TESTTIME["entropy-weighted"].call(models, temperature=float("inf"))(batch)
    mean = torch.stack([torch.sigmoid(model(batch)) for model in models]).mean(0)
    torch.testing.assert_close(torch.sigmoid(logits), mean)
    fused = fm.merge(models, "ensemble-probabilities").model
    torch.testing.assert_close(torch.sigmoid(fused(batch)), mean)
    assert task_of(fused) is MULTILABEL
    merged = fm.merge(models, "mean").model
    assert task_of(merged) is MULTILABEL
    with refused("fedmerge_task"):
        fm.merge([models[0], Net(2)], "mean")


def test_a_merge_scores_by_the_task_and_refuses_other_labels():
    models, images = nets("multilabel"), torch.randn(12, 1, 3, 3)
    labels = (torch.arange(24).reshape(12, 2) % 3 == 0).long()
    found = fm.merge(models, "greedy", data=images, labels=labels)
    best = max(MULTILABEL.score(model(images), labels) for model in models)
    assert found.decisions[0]["score_alone"] == pytest.approx(best)
    with refused("0 and 1"):
        fm.merge(models, "greedy", data=images, labels=labels[:, 0])


def test_training_takes_a_row_of_findings_an_image_and_weights_that_fit():
    images = torch.randint(0, 255, (8, 1, 3, 3), dtype=torch.uint8)
    labels = torch.tensor([[1, 0], [0, 1]] * 4, dtype=torch.uint8)
    options = TrainingOptions(batch_size=4, lr=0.01)
    result = fit(
        mark(Net(2), "multilabel"), images, labels, options, normalise=lambda x: x / 255, draws=Draws(0)
    )
    assert 0 <= result.accuracies[0] <= 1
    with refused("a row of 0 and 1"):
        fit(
            mark(Net(2), "multilabel"),
            images,
            labels[:, 0].long(),
            options,
            normalise=lambda x: x,
            draws=Draws(0),
        )
    with refused("2 outputs", "3"):
        fit(mark(Net(3), "multilabel"), images, labels, options, normalise=lambda x: x / 255, draws=Draws(0))
    weighed = TrainingOptions(batch_size=4, class_weights=(1.0, 2.0, 3.0))
    with refused("3 numbers", "2"):
        fit(mark(Net(2), "multilabel"), images, labels, weighed, normalise=lambda x: x / 255, draws=Draws(0))


def test_an_npz_of_findings_may_name_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    arrays = {}
    for name in ("train", "val", "test"):
        arrays[f"{name}_images"] = np.random.default_rng(0).integers(0, 255, (24, 8, 8)).astype(np.uint8)
        arrays[f"{name}_labels"] = (np.arange(48).reshape(24, 2) % 5 < 2).astype(bool)
    np.savez(tmp_path / "chest.npz", class_names=np.array(["nodule", "effusion"]), **arrays)
    spec = {"name": "c", "task": "multilabel", "source": "npz:chest.npz", "sites": [{"name": "a"}]}
    cohort = build_cohort(CohortSpec.model_validate(spec), 0)
    assert cohort.class_names == ("nodule", "effusion")
    assert cohort["a"].train.class_counts(2).tolist() == arrays["train_labels"].sum(0).tolist()


def test_arrays_in_memory_have_findings():
    images = np.zeros((40, 8, 8), np.uint8)
    labels = np.stack([np.arange(40) % 2, np.arange(40) % 4 == 0], 1)
    spec = {"name": "c", "task": "multilabel", "source": Arrays(images, labels), "sites": [{"name": "a"}]}
    cohort = build_cohort(CohortSpec.model_validate(spec), 0)
    assert sum(len(site.everything) for site in cohort.sites) == 40


def test_a_study_ranks_by_a_score_of_its_task():
    base = experiment("multiclass", "digits") | {"cohort": "digits-scanners"}
    with refused("kappa", "multiclass", "auroc"):
        read_bench({"name": "s", "base": base, "metric": "kappa"})


def test_weights_of_another_number_are_refused_before_the_run(tmp_path):
    weighed = {"rounds": 1, "batch_size": 8, "class_weights": [1, 2, 3], "fine_tune": {}}
    with refused("training.class_weights", "3 numbers", "10"):
        fm.run(experiment("multilabel", training=weighed), out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
