"""The apps behind ``flwr run .``: whose a node is, what a run's configuration says, and the same bits."""

import json
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder.machine import reproducible
from fedmerge.federation import LocalGrid
from fedmerge.federation.flower import FlowerPlace
from fedmerge.workflows import flower_app
from fedmerge.workflows.flower_app import RunConfig
from fedmerge.workflows.run import run

ROOT = Path(__file__).resolve().parents[2]
SHORT = "fusion=[mean];testtime=[];evaluation.streams=[iid]"


@pytest.fixture(autouse=True)
def switches_as_before():
    """The apps set PyTorch's switches for their process, which is this one here."""
    with reproducible(1):
        yield


class Forgetful(LocalGrid):
    """Each message meets a hospital that knows nothing of those before, as in a deployment."""

    def _deliver(self, message):
        flower_app._known.cache_clear()
        return super()._deliver(message)


def flower_run(run_config, n_nodes, nodes=None):
    """What Flower does with the two apps, in this process: messages, contexts, the run's configuration."""
    grid = Forgetful(flower_app.client, n_nodes)
    for number, context in enumerate(grid._contexts.values()):
        context.run_config = run_config
        if nodes is not None:
            context.node_config = nodes[number]
    context = next(iter(grid._contexts.values()))
    flower_app.server(grid=grid, context=context)


def test_pyproject_names_the_apps_and_its_configuration_is_whole():
    """Every field of RunConfig is there (Flower overrides only those that are), with a value it takes."""
    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["components"] == {
        "serverapp": "fedmerge.workflows.flower_app:server",
        "clientapp": "fedmerge.workflows.flower_app:client",
    }
    names = {info.alias or name for name, info in RunConfig.model_fields.items()}
    assert set(app["config"]) == names
    assert RunConfig.read(app["config"]).overrides == ["threads=1"]


@pytest.mark.parametrize(
    "unseen",
    [
        "cohort",
        f"each;federation.personal=norms;{SHORT}",
        f"each;federation.aggregate=scaffold;training.momentum=0;{SHORT}",
    ],
)
def test_the_apps_do_what_run_does_bit_for_bit(site_files, hashes, tmp_path, unseen):
    """With one site unseen, and with a federation for each site left out in turn, each keeping its norms, or
    its control variate."""
    n_nodes = 3 if unseen == "cohort" else 4
    local = run(site_files, changes=f"unseen={unseen}".split(";"), out=tmp_path / "local", seed=3)
    out = tmp_path / "flower"
    given = {
        "config": str(site_files),
        "set": f"unseen={unseen}",
        "seed": 3,
        "out": str(out),
        "patience": 0.0,
    }
    flower_run(given, n_nodes)
    assert hashes(out) == hashes(local.folder)
    assert [Path(name).stem for name in hashes(out)].count("mean") == (1 if unseen == "cohort" else 4)
    assert (out / "report.html").is_file()


def test_hospitals_whose_images_the_server_never_has_give_the_same_models(
    site_files, remote_files, hashes, tmp_path
):
    """All but pooled training, which needs the images and says so. The majority class needs counts alone."""
    config, nodes = remote_files
    local = hashes(run(site_files, out=tmp_path / "local", seed=3).folder)
    out = tmp_path / "remote"
    flower_run({"config": str(config), "seed": 3, "out": str(out), "patience": 0}, 3, nodes)
    pooled = {name for name in local if name.endswith("pooled.safetensors")}
    assert len(pooled) == 1
    assert hashes(out) == {name: value for name, value in local.items() if name not in pooled}
    (failure,) = json.loads((out / "failures.json").read_text())
    assert (failure["where"], failure["site"]) == ("pooled", "delta")
    columns = ["kind", "stream", "accuracy", "balanced_accuracy", "brier", "training_accuracy"]
    here, there = (
        pd.read_parquet(folder / "results.parquet", columns=columns).query("kind == 'reference'")
        for folder in (tmp_path / "local", out)
    )
    pd.testing.assert_frame_equal(here, there)
    assert len(here) == 3
    assert failure["reason"] == "the images of 'alpha' are at the hospital and never leave it."
    assert (out / "report.html").is_file()


def test_an_interrupted_run_goes_on_with_the_same_bits(
    site_files, remote_files, hashes, tmp_path, monkeypatch
):
    """The hospitals vanish for good when the second round's models are to be averaged, then come back."""
    config, nodes = remote_files
    given = {"config": str(config), "set": SHORT, "seed": 3, "patience": 0}
    flower_run(given | {"out": str(tmp_path / "whole")}, 3, nodes)
    broken = given | {"out": str(tmp_path / "broken")}
    asked = LocalGrid.push_messages

    def vanish(self, messages):
        messages = list(messages)
        if any(message.metadata.group_id == "2" for message in messages):
            raise ConnectionError("the server's machine is switched off")
        return asked(self, messages)

    monkeypatch.setattr(LocalGrid, "push_messages", vanish)
    with pytest.raises(ConnectionError):
        flower_run(broken, 3, nodes)
    monkeypatch.setattr(LocalGrid, "push_messages", asked)
    flower_run({"config": "not read", "seed": 3, "patience": 0, "resume": broken["out"]}, 3, nodes)
    assert hashes(tmp_path / "broken") == hashes(tmp_path / "whole")


def test_remote_images_need_hospitals_that_have_them(remote_files, tmp_path):
    config, _ = remote_files
    with refused("alpha", "hospital", "part"):
        run(config, out=tmp_path / "out")
    with refused("beta", "remote", "cohort="):
        flower_app._hospital({"site": "beta"}, {"config": str(config)})
    assert not (tmp_path / "out").exists()


def test_a_remote_site_cannot_be_where_models_are_evaluated(remote_files, tmp_path):
    config, nodes = remote_files
    given = {"config": str(config), "set": "unseen=[beta]", "out": str(tmp_path / "out")}
    with refused("beta", "evaluated", "hospital"):
        flower_run(given, 3, nodes)


def test_a_hospital_whose_images_the_model_cannot_take_says_what_to_set(remote_files, tmp_path):
    """beta's own file makes its images larger, which only it can see: it fails, the others go on."""
    config, nodes = remote_files
    own = tmp_path / "beta.yaml"
    own.write_text(yaml.safe_dump(yaml.safe_load(own.read_text()) | {"size": 12}))
    given = {"config": str(config), "set": "fusion=[mean];testtime=[]", "out": str(tmp_path / "out")}
    flower_run(given, 3, nodes)
    failures = json.loads((tmp_path / "out" / "failures.json").read_text())
    reasons = {failure["reason"] for failure in failures if failure["site"] == "beta"}
    assert any("'beta' are 1 x 12 x 12" in reason and "takes 1 x 8 x 8 of 3" in reason for reason in reasons)


def test_a_node_finds_its_site_by_number_or_by_name_or_in_a_file_of_its_own(site_files, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"sites": [{"name": "beta", "source": "npz:images/beta.npz"}]}))
    run_config = {"config": str(site_files)}
    by_number = flower_app._hospital({"partition-id": 1, "num-partitions": 3}, run_config)
    by_name = flower_app._hospital({"site": "beta"}, run_config)
    by_file = flower_app._hospital({"site": "beta", "cohort": str(own)}, {"config": "not here"})
    for hospital in (by_number, by_name, by_file):
        assert hospital.site.name == "beta"
        assert hospital.site.train.images.equal(by_number.site.train.images)
    assert flower_app._hospital({"site": "beta"}, run_config) is by_name


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({}, ("node", "hospital")),
        ({"site": "bta"}, ("bta", "beta", "unknown")),
        ({"partition-id": 0, "num-partitions": 2}, ("3", "hospitals", "num-supernodes=3")),
        ({"partition-id": 3, "num-partitions": 4}, ("node 3", "3 hospitals")),
        ({"partition-id": "first"}, ("partition-id", "node's", "configuration")),
    ],
)
def test_a_node_that_cannot_be_a_hospital_says_why(site_files, node, sentence):
    with refused(*sentence):
        flower_app._hospital(node, {"config": str(site_files)})


def test_a_file_without_the_site_s_name_is_refused(site_files, tmp_path):
    with refused("site", "site="):
        flower_app._hospital({"cohort": str(tmp_path / "cohort.yaml")}, {"config": str(site_files)})


def test_too_few_nodes_end_the_run_with_the_number_there_must_be(site_files, tmp_path):
    given = {"config": str(site_files), "out": str(tmp_path / "out")}
    with refused("hospital", "answered", "num-supernodes=3"):
        flower_run(given, 2)


def test_a_wrong_configuration_is_a_sentence():
    with refused("threads", "configuration", "0"):
        RunConfig.read({"config": "quickstart", "threads": 0})


def test_flower_s_grid_is_handed_on(cohort):
    """A place only carries: the app gets the grid, looked at more often, and the very context."""
    seen = []
    place = FlowerPlace(grid="the grid", context="the context")
    place.simulate(lambda grid, context: seen.append((grid.grid, context)), cohort.sites)
    assert seen == [("the grid", "the context")]


def test_names_of_files_that_cannot_be_read_stay_at_the_hospital(tmp_path):
    """They may be names of patients: the server hears that something is wrong, the node's audit log what."""
    from fedmerge.federation.policy.audit import audit_log

    node = tmp_path / "node"
    for name in ("no", "yes"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "Mustermann_Hans.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    node.mkdir()
    (node / "node.yaml").write_text("")
    cohort = {
        "size": 8,
        "channels": 1,
        "sites": [{"name": "north", "source": f"folder:{tmp_path / 'images'}"}],
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(cohort))
    config = {"site": "north", "cohort": str(tmp_path / "own.yaml"), "folder": str(node)}
    with pytest.raises(FedMergeError) as raised:
        flower_app._hospital(config, {"config": "quickstart"})
    assert "north" in str(raised.value)
    assert "Mustermann" not in str(raised.value)
    (entry,) = audit_log(node).entries()
    assert entry["event"] == "failed"
    assert "Mustermann_Hans.png" in entry["reason"]
