"""What reaches ``merge``: the right images, in the network's units, and nothing that is not needed."""

from types import SimpleNamespace

import pytest
import torch
from facts import refused

from fedmerge.data import concat
from fedmerge.data.cohort.fusion import share
from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.stages import predictors as candidates
from fedmerge.experiment.stages.planning import model_spec
from fedmerge.experiment.stages.preflight import check
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.seed import Cell
from fedmerge.experiment.stages.setup import set_up
from fedmerge.federation import Server
from fedmerge.merging import merge
from fedmerge.models import Normalisation, build
from fedmerge.models.state import state_hash

NO_ROUNDS = {"rounds": 0, "batch_size": 12}
HALF = Normalisation.named("half")


@pytest.fixture
def calls(monkeypatch):
    """Every call of ``merge``: its method and what it was given; all merge by the mean."""
    made = []

    def spy(parents, method, **arguments):
        made.append({"method": method, "parents": parents.names, **arguments})
        return merge(parents, "mean")

    monkeypatch.setattr(candidates, "merge", spy)
    return made


@pytest.fixture
def fused(needy, calls, experiment, cohort, tmp_path):
    """Train the tiny federation and fuse it with some images; returns the calls and the record."""

    def go(fusion, data=None, **changes):
        calls.clear()
        given = experiment | {"fusion": fusion, "fusion_data": data} | changes
        checked, _ = read_experiment(given)
        check(checked, cohort)
        record = Record({"config_hash": "x"})
        (federation,) = federations(cohort, checked)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        setup = set_up(checked, cohort, federation.members, 0, folder, record, "cpu")
        Cell(setup, federation).execute()
        return list(calls), record

    return go


def log(record):
    return [(row["model"], row["images_asked"], row["images"]) for row in record.decisions]


def test_the_union_is_a_share_of_each_source_in_site_order(fused, cohort):
    (call,), record = fused(["needs-images"], {"from": "union", "images": 10})
    shares = [share(cohort[name], n, "val", 0) for name, n in (("alpha", 4), ("beta", 3), ("gamma", 3))]
    assert torch.equal(call["data"], HALF(concat(shares).images))
    assert "labels" not in call
    assert "start" not in call
    assert log(record) == [("alpha", 4, 4), ("beta", 3, 3), ("gamma", 3, 3)]


def test_labels_are_given_only_to_methods_that_use_them(fused, cohort):
    calls, _ = fused(["needs-labels", "needs-images"], {"from": "union", "images": 9, "split": "train"})
    shares = concat([share(cohort[name], 3, "train", 0) for name in ("alpha", "beta", "gamma")])
    assert torch.equal(calls[0]["labels"], shares.labels)
    assert torch.equal(calls[0]["data"], calls[1]["data"])
    assert "labels" not in calls[1]


def test_a_hospital_that_has_fewer_gives_what_it_has(fused):
    """60 images a site, 12 of them for validation: 20 asked of each."""
    (call,), record = fused(["needs-images"], {"from": "union", "images": 60})
    assert len(call["data"]) == 36
    assert log(record) == [("alpha", 20, 12), ("beta", 20, 12), ("gamma", 20, 12)]


def test_one_hospital_may_give_all(fused, cohort):
    (call,), _ = fused(["needs-images"], {"from": "union", "images": 6, "sites": ["beta"]})
    assert torch.equal(call["data"], HALF(share(cohort["beta"], 6, "val", 0).images))
    assert call["parents"] == ["alpha", "beta", "gamma"]


def test_methods_without_a_need_get_no_images(fused):
    calls, record = fused(["mean"], {"from": "union", "images": 9})
    assert not calls[0]["data"].any()
    assert record.decisions == []


def test_a_public_set_at_the_server(fused):
    (call,), record = fused(["needs-images"], {"from": "server", "source": "digits", "images": 20})
    assert call["data"].shape == (20, 1, 8, 8)
    assert log(record) == [("server", 20, 20)]
    with refused("classes", "0", "1", "2", "3"):
        fused(["needs-labels"], {"from": "server", "source": "digits"})


def test_sites_that_do_not_train_cannot_give(fused, calls):
    with refused("delta", "fusion_data.sites", "hospital"):
        fused(["needs-images"], {"from": "union", "sites": ["delta"]})
    assert calls == []


def test_a_hospital_gives_nothing_for_itself(fused):
    """Each site is unseen in turn and alpha alone may give: for alpha it fails, and the others go on."""
    data = {"from": "union", "images": 3, "sites": ["alpha"]}
    calls, record = fused(["needs-images"], data, unseen="each", training=NO_ROUNDS)
    assert [set("abgd") - {name[0] for name in call["parents"]} for call in calls] == [{"b"}, {"g"}, {"d"}]
    (failure,) = record.failures
    assert (failure["site"], failure["where"]) == ("alpha", "needs-images")
    assert "none of fusion_data.sites (alpha) is a source for 'alpha'" in failure["reason"]


def test_sums_are_asked_of_the_hospitals_and_no_image_is_given(fused, monkeypatch):
    asked, sums = [], SimpleNamespace(traffic=[])

    def statistics(self, parents, images, split):
        asked.append((list(parents), images, split))
        return sums

    monkeypatch.setattr(Server, "statistics", statistics)
    (call,), record = fused(["needs-sums"], {"from": "hospitals", "images": 40})
    assert asked == [(["alpha", "beta", "gamma"], {"alpha": 13, "beta": 13, "gamma": 13}, "val")]
    assert call["statistics"] is sums
    assert not call["data"].any()
    assert log(record) == [("alpha", 13, 12), ("beta", 13, 12), ("gamma", 13, 12)]


def test_the_start_is_the_model_after_the_rounds(fused, monkeypatch, cohort, experiment):
    kept = []
    rounds = Server.rounds
    monkeypatch.setattr(Server, "rounds", lambda self, *given: kept.append(rounds(self, *given)) or kept[-1])
    calls, _ = fused(["needs-start", "mean"])
    initial = build(model_spec(read_experiment(experiment)[0], cohort), seed=0).state_dict()
    assert state_hash(calls[0]["start"]) == state_hash(kept[0]) != state_hash(initial)
    assert "start" not in calls[1]
    (call,), _ = fused(["needs-start"], training=NO_ROUNDS)
    assert state_hash(call["start"]) == state_hash(initial)


def test_what_is_done_after_is_handed_on(fused):
    (call,), _ = fused([{"method": "mean", "after": "repair"}], {"from": "union", "images": 6})
    assert call["after"] == "repair"
    assert len(call["data"]) == 6
    calls, _ = fused(["mean"])
    assert "after" not in calls[-1]
