"""What is served: a run, a folder of models, files; and what is refused there, by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import fedmerge as fm
from fedmerge.cli import app
from fedmerge.errors import FedMergeError
from fedmerge.models import ModelPool
from fedmerge.models.weights import load_weights, write_weights
from fedmerge.serving.served import Served
from fedmerge.workflows.served import find_models, samples, served
from tests.facts import refused
from tests.serving.conftest import HOSPITALS, SPEC, pool_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run that every site is left out of in turn, without rounds, so that all train once."""
    from tests.conftest import bright_quarters

    names = ("alpha", "beta", "gamma")
    sites = [{"name": name, "source": bright_quarters(40, k, 20 * k)} for k, name in enumerate(names)]
    experiment = {
        "name": "tiny",
        "cohort": {"name": "quarters", "sites": sites},
        "unseen": "each",
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "training": {"rounds": 0, "batch_size": 12, "fine_tune": {"epochs": 1, "lr": 0.02}},
        "fusion": ["mean"],
        "testtime": [
            {"method": "entropy-adaptive", "label": "cool", "batch_norm": "average", "calibrated": True},
            {"method": "tent", "label": "pooled-tent", "start": "pooled"},
        ],
        "evaluation": {"batch_size": 16, "streams": ["iid"]},
    }
    folder = tmp_path_factory.mktemp("run") / "run"
    fm.run(experiment, out=folder)
    return folder


def answers(what: Served) -> torch.Tensor:
    batch = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return what.build().observe(batch)[0]


def test_a_run_serves_a_hospital_without_its_own_model(run):
    found = find_models([run], "beta")
    assert [card.name for card, _ in found.models] == ["alpha", "gamma"]
    assert [card.name for card, _ in find_models([run]).models] == ["alpha", "beta", "gamma"]
    what = served(found, "cool", ["batch_norm=mixture"], device="cpu")
    pool = ModelPool(run / "seed-0" / "all" / "pool").subset(["alpha", "gamma"])
    temperatures = [pool.card(name).metrics["temperature"] for name in pool]
    node = fm.EntropyAdaptive(
        [pool.model(name) for name in pool], batch_norm="mixture", source_temperatures=temperatures
    )
    batch = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(answers(what), node(batch))
    assert what.fingerprint != served(found, "cool", device="cpu").fingerprint


def test_a_network_that_the_run_fused_is_served_by_its_label(run):
    what = served(find_models([run], "beta"), "mean", device="cpu")
    pool = ModelPool(run / "seed-0" / "all" / "beta" / "fused")
    batch = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(answers(what), pool.model("mean")(batch))
    assert what.coefficients == {"alpha": 0.5, "gamma": 0.5}
    assert [card.sha256 for card in what.cards] == [pool.card("mean").sha256]


def test_what_is_served_by_default_depends_on_where_the_networks_began(tmp_path, monkeypatch):
    """From scratch stream-adaptive; pretrained ones the run's federated model, or else the mean."""
    pool = pool_of(tmp_path / "models", SPEC)
    assert served(find_models([pool]), device="cpu").method == "stream-adaptive"
    for card in pool.glob("*.json"):
        card.write_text(card.read_text().replace('"pretrained": false', '"pretrained": true'))
    found = find_models([pool])
    assert all(card.model.pretrained for card, _ in found.models)
    what = served(found, device="cpu")
    assert (what.method, set(what.coefficients.values())) == ("mean", {1 / 3})
    kept = replace(found, fused={"federated": pool / "north.safetensors"})
    assert served(kept, device="cpu").method == "federated"
    node = fm.StreamAdaptive(list(found.load().values()), pretrained=True)
    batch = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(answers(served(found, "stream-adaptive", device="cpu")), node(batch))


def test_one_file_is_served_as_it_is(folder):
    found = find_models([folder / "north.safetensors"])
    what = served(found, device="cpu")
    batch = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert what.method == "static"
    assert torch.equal(answers(what), ModelPool(folder).model("north")(batch))
    both = find_models([folder / "south.safetensors", folder / "north.safetensors"])
    assert served(both, device="cpu").names == ("south", "north")


def test_what_cannot_be_served_is_said(run, folder, tmp_path):
    with refused("nothing here"):
        find_models([tmp_path / "nothing here"])
    with refused("config.yaml", "models"):
        find_models([tmp_path])
    with refused("--target"):
        find_models([folder], target="north")
    with refused("seed", 7, 0):
        find_models([run], seed=7)
    with refused("two models", "north"):
        shutil.copytree(folder, tmp_path / "again")
        find_models([folder / "north.safetensors", tmp_path / "again" / "north.safetensors"])
    bare = tmp_path / "bare.safetensors"
    shutil.copy(folder / "north.safetensors", bare)
    with refused("bare.safetensors", "card"):
        find_models([bare])
    found = find_models([folder])
    for method, facts in {
        "entropy-adaptve": ("entropy-adaptive",),
        "kf": ("kf", "fusion sums", "fedmerge merge"),
        "static": ("static", 3),
    }.items():
        with refused(*facts):
            served(found, method, device="cpu")
    with refused("batch_nrom", "batch_norm"):
        served(found, None, ["batch_nrom=average"], device="cpu")
    with refused("pooled-tent", "pooled.safetensors"):
        served(find_models([run], "beta"), "pooled-tent", device="cpu")


def test_changed_weights_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "models")
    path = tmp_path / "models" / "east.safetensors"
    state = load_weights(path)
    write_weights(path, {key: value + (value.ndim > 1) for key, value in state.items()})
    with refused("east.safetensors", "hash"):
        served(find_models([tmp_path / "models"]), device="cpu")


def test_a_run_s_plugins_are_not_loaded(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    plugin = tmp_path / "run" / "evil.py"
    plugin.write_text("raise SystemExit('it ran')")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text() + f"\nplugins: [{json.dumps(str(plugin))}]\n")
    assert len(find_models([tmp_path / "run"], "beta").models) == 2


def test_samples_are_balanced_and_the_same_each_time(folder, run):
    found = find_models([folder])
    images = samples(found, "digits")
    assert images.shape == (32, 1, 8, 8)
    assert torch.equal(images, samples(found, "digits"))
    with refused("--samples run"):
        samples(found, "run")


def test_the_command_refuses_before_it_loads(folder, tmp_path, monkeypatch):
    def said(*words: str) -> str:
        done = CliRunner().invoke(app, ["serve", *words])
        assert isinstance(done.exception, FedMergeError), done.output
        return str(done.exception)

    assert "--tokens" in said("--new-token", "ward")
    assert "safetensors" in said()
    assert "--certificate" in said(str(folder), "--host", "0.0.0.0")
    assert "streams" in said(str(folder), "--limit", "streams=0")
    made = CliRunner().invoke(app, ["serve", "--tokens", str(tmp_path / "t"), "--new-token", "ward"])
    assert made.exit_code == 0
    assert len(made.stdout.strip().splitlines()[-1]) == 43
    for package in ("fastapi", "python_multipart"):
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, package, None)
            assert f"{package}, which is not installed: pip install 'fedmerge[serve]'" in said(str(folder))


def test_a_folder_of_models_is_in_the_order_of_its_cards(folder):
    assert tuple(card.name for card, _ in find_models([folder]).models) == HOSPITALS
