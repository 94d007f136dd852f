"""Images that change while a run or a study is at work are noticed, and no row mixes old and new ones."""

import shutil

import numpy as np
import pytest
import yaml
from facts import refused

import fedmerge as fm
from fedmerge.engine.store import StoreStopped
from fedmerge.workflows.bench.bench import bench
from tests.made_up_images import quarters

SITES = ("alpha", "beta", "delta")


def save(path, seed):
    rng, arrays = np.random.default_rng(seed), {}
    for split, n in (("train", 30), ("val", 9), ("test", 9)):
        images, labels = quarters(rng, n, offset=20 * seed)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None]}
    np.savez(path, **arrays)


@pytest.fixture
def given(tmp_path):
    """An experiment of two seeds on files in ``tmp_path``, public images, and other ones for each file."""
    for number, name in enumerate((*SITES, "public")):
        save(tmp_path / f"{name}.npz", number)
        save(tmp_path / f"other-{name}.npz", number + 10)
    sites = [
        {"name": name, "source": f"npz:{tmp_path}/{name}.npz", "unseen": name == "delta"} for name in SITES
    ]
    (tmp_path / "corners.yaml").write_text(yaml.safe_dump({"sites": sites}))
    return {
        "name": "tiny",
        "cohort": str(tmp_path / "corners.yaml"),
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "seeds": [0, 1],
        "threads": 1,
        "training": {"rounds": 1, "epochs": 1, "lr": 0.05, "batch_size": 10, "fine_tune": "none"},
        "fusion": [],
        "testtime": [],
        "evaluation": {"batch_size": 16, "streams": ["iid"]},
        "diagnose": "off",
    }


def replaced(folder, name):
    """Put the other images where those of a name are; return their former content."""
    before = (folder / f"{name}.npz").read_bytes()
    shutil.copyfile(folder / f"other-{name}.npz", folder / f"{name}.npz")
    return before


def test_a_run_of_several_seeds_ends_where_the_files_changed_and_goes_on_with_them_back(given, tmp_path):
    """Seed 0 has its images in memory; seed 1 reads files of which none may be another by then."""
    before = []

    def change(text, done, total):
        if text.startswith("seed 0: training") and not before:
            before.append(replaced(tmp_path, "beta"))

    with refused("cohort's images", "--resume", kind=fm.FedMergeError):
        fm.run(given, out=tmp_path / "run", backend={"workers": 1}, progress=change)
    with refused("beta", "images", kind=fm.FedMergeError):
        fm.run(resume=tmp_path / "run", backend={"workers": 1})
    (tmp_path / "beta.npz").write_bytes(before[0])
    gone_on = fm.run(resume=tmp_path / "run", backend={"workers": 1})
    unbroken = fm.run(given, out=tmp_path / "unbroken", backend={"workers": 1})
    columns = ["seed", "site", "method", "accuracy", "auroc"]
    assert gone_on.table[columns].equals(unbroken.table[columns])


def test_public_images_that_changed_are_in_no_fusion(given, tmp_path):
    """regmean fuses with the images that were there at the beginning; fisher would read others."""
    data = {"from": "server", "images": 9, "source": f"npz:{tmp_path}/public.npz"}
    given |= {"seeds": [0], "fusion": ["regmean", "fisher"], "fusion_data": data}
    given["training"] |= {"fine_tune": {"epochs": 1, "lr": 0.02}}

    def change(text, done, total):
        if text.startswith("seed 0: regmean at"):
            replaced(tmp_path, "public")

    result = fm.run(given, out=tmp_path / "run", backend={"workers": 1}, progress=change)
    assert "regmean" in set(result.table["method"])
    assert "fisher" not in set(result.table["method"])
    (failure,) = result.failures.to_dict("records")
    assert failure["where"] == "fisher"
    assert "public.npz" in failure["reason"]


def test_a_study_stops_where_images_changed_and_goes_on_with_them_back(given, tmp_path):
    """The jobs' names stand for the old images; a job that reads others would be found under a wrong name."""
    study = {"name": "tiny", "base": given}
    before = []

    def change(event):
        if event.kind == "ended" and not before:
            before.append(replaced(tmp_path, "beta"))

    with refused("images", "corners", kind=StoreStopped):
        bench(study, out=tmp_path / "study", watch=change)
    (tmp_path / "beta.npz").write_bytes(before[0])
    gone_on = bench(study, out=tmp_path / "study")
    assert set(gone_on.table["status"]) == {"done"}


def test_a_study_planned_anew_in_this_process_reads_the_images_anew(given, tmp_path):
    """Its rows are those of a cohort that names the other file."""
    given |= {"seeds": [0]}
    bench({"name": "tiny", "base": given}, out=tmp_path / "before")
    cohort = yaml.safe_load((tmp_path / "corners.yaml").read_text())
    cohort["sites"][1]["source"] = f"npz:{tmp_path}/other-beta.npz"
    (tmp_path / "others.yaml").write_text(yaml.safe_dump(cohort))
    named = given | {"cohort": str(tmp_path / "others.yaml")}
    expected = bench({"name": "tiny", "base": named}, out=tmp_path / "named").table
    replaced(tmp_path, "beta")
    found = bench({"name": "tiny", "base": given}, out=tmp_path / "after").table
    columns = ["site", "method", "accuracy", "auroc", "loss"]
    columns = [name for name in columns if name in found]
    assert found[columns].equals(expected[columns])
