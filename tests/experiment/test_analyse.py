"""Analyses of weights in files and of runs, and the diagnosis inside a run."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from facts import refused
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from fedmerge import ANALYSES, analyse, run
from fedmerge.analysis.diagnosis.why import NOTHING
from fedmerge.cli.app import app
from fedmerge.experiment.stages import diagnosis
from fedmerge.models import ModelSpec, build
from fedmerge.reports.analysis_report import write_analysis
from fedmerge.reports.why import why_section
from fedmerge.tasks import mark

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})
MODEL = "small-cnn:width=4"


@pytest.fixture
def files(tmp_path, source_of_images):
    """Three files of weights without cards, and images: 30 of 8 px, three classes, as npz:small.npz."""
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for seed, path in enumerate(paths):
        save_file(build(SPEC, seed).state_dict(), path)
    return paths


class Text(HTMLParser):
    """The text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_files_give_tables_sentences_and_a_page_that_says_them(files, tmp_path) -> None:
    out = tmp_path / "why"
    changes = ["landscape.grid=3", "barriers.points=3"]
    found = analyse(
        files, network=MODEL, data="npz:small.npz", out=out, changes=changes, device="cpu",
        only=["drift", "barriers", "landscape", "templates"],
    )  # fmt: skip
    assert found.left == {}
    assert len(pd.read_parquet(out / "landscape-plane.parquet")) == 9
    assert (
        len(pd.read_csv(out / "barriers.csv")) == 2 * 6
    )  # three pairs, three to the mean, norms kept and anew
    assert np.load(out / "templates.npz")["means"].shape == (3, 1, 8, 8)
    said = json.loads((out / "findings.json").read_text())
    page = html.unescape(write_analysis(found).read_text(encoding="utf-8"))  # sentences are the pictures' alt
    text = " ".join(page.split())
    for name, finding in found.findings.items():
        assert said["findings"][name]["sentence"] == finding.sentence
        assert " ".join(finding.sentence.rstrip(".").split()) in text
        assert ANALYSES[name].title in text


def test_the_command_prints_a_sentence_for_each_analysis_and_fails_where_one_named_gives_nothing(
    files, tmp_path
) -> None:
    given = ["analyse", *map(str, files[:2]), "--model", f"{MODEL},in_channels=1,image_size=8"]
    done = CliRunner().invoke(
        app, [*given, "--only", "drift", "--out", str(tmp_path / "one"), "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    assert "heads of a and b" in done.output
    assert "answer" in done.output
    lacking = CliRunner().invoke(app, [*given, "--only", "heads", "--out", str(tmp_path / "two"), "--json"])
    assert lacking.exit_code == 1
    assert "images" in json.loads(lacking.stdout)["left_out"]["heads"]


def test_what_cannot_be_analysed_is_refused_before_anything_is_written(files, tmp_path) -> None:
    out = tmp_path / "why"
    with refused("two files"):
        analyse(files[:1], network=MODEL, out=out)
    with refused("--model"):
        analyse(files, out=out)
    with refused("drif", "drift"):
        analyse(files, network=MODEL, only=["drif"], out=out)
    with refused("drift", "ANALYSIS.OPTION"):
        analyse(files, network=MODEL, changes=["drift=3"], out=out)
    with refused("splits", "train, val, test"):
        analyse(files, network=MODEL, split="splits", out=out)
    with refused("config.yaml"):
        analyse([tmp_path], out=out)
    with refused("nothing", "no"):
        analyse([tmp_path / "nothing"], out=out)
    (tmp_path / "study.yaml").write_text("name: s\n")
    with refused("study", "fedmerge run"):
        analyse([tmp_path], out=out)
    with refused("--data", "--model", "run"):
        analyse([tmp_path], network=MODEL, data="npz:small.npz", out=out)
    assert not out.exists()


def test_files_without_cards_say_how_their_images_are_normalised(files, tmp_path) -> None:
    given = {"network": MODEL, "data": "npz:small.npz", "only": ["barriers"], "device": "cpu"}
    levels = {}
    for name in ("default", "half", "none"):
        found = analyse(files, normalisation=name, out=tmp_path / name, **given)
        levels[name] = found.findings["barriers"].tables["paths"]["loss"].tolist()
        assert f"mean {0 if name == 'none' else 0.5}" in found.about
    assert levels["default"] == levels["half"] != levels["none"]
    with refused("imagnet", "imagenet"):
        analyse(files, normalisation="imagnet", out=tmp_path / "other", **given)


def test_a_network_whose_answers_overflow_is_refused_by_name() -> None:
    """Weights times 1e25: two layers give 1e50, over the 3e38 of float32."""
    first, second = (build(SPEC, seed).eval() for seed in range(2))
    with torch.no_grad():
        for value in second.parameters():
            value.mul_(1e25)
    with refused("model 1", "infinity", without=("model 0",)):
        analyse([first, second], data=torch.randn(8, 1, 8, 8), labels=[0, 1] * 4, device="cpu")


def test_models_of_two_architectures_have_one_reason_and_no_verdict() -> None:
    wide = build(SPEC.model_copy(update={"options": {"width": 6}}), 1)
    found = analyse([build(SPEC, 0), wide], data=torch.randn(8, 1, 8, 8), labels=[0, 1] * 4, device="cpu")
    reason = found.left["drift"]
    assert {"drift", "heads", "barriers", "features"} <= set(found.reasons[reason])
    assert found.answer.startswith(reason)


def test_networks_in_memory_are_analysed_as_their_files_are(files, tmp_path) -> None:
    networks = [build(SPEC, seed) for seed in range(3)]
    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = networks[0].eval()(x).argmax(1)
    given = {"only": ["drift", "barriers"], "device": "cpu"}
    found = analyse(dict(zip("abc", networks, strict=True)), data=x, labels=y.tolist(), **given)
    assert found.left == {}
    assert found.folder is None
    of_files = analyse(files, network=f"{MODEL},in_channels=1,image_size=8", out=tmp_path / "f", **given)
    pd.testing.assert_frame_equal(found.findings["drift"].frame, of_files.findings["drift"].frame)
    ends = found.findings["barriers"].tables["paths"].query("norms == 'kept' and first == 'a' and t == 0")
    assert (ends["accuracy"] == 1).all()  # the labels are the first network's answers
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    again = analyse(networks, data=loader, out=tmp_path / "m", **given)
    np.testing.assert_array_equal(
        again.findings["barriers"].frame["lost"], found.findings["barriers"].frame["lost"]
    )
    assert json.loads((tmp_path / "m" / "findings.json").read_text())["findings"].keys() == {
        "drift",
        "barriers",
    }
    with refused("folder", "out="):
        write_analysis(found)


def test_networks_and_labels_that_cannot_be_looked_at_are_sentences() -> None:
    networks, x = [build(SPEC, seed) for seed in range(2)], torch.rand(12, 1, 8, 8)
    found = analyse(networks, data=x, labels=torch.arange(12) % 3 + 1, only=["heads", "tasks"], device="cpu")
    assert {name for name, reason in found.left.items() if "1 to 3" in reason} == {"heads", "tasks"}
    with refused("model 1", "meta"):
        analyse([networks[0], build(SPEC, 1).to("meta")], data=x)
    with refused("seed", 1.5, "whole"):
        analyse(networks, data=x, seed=1.5)


def test_networks_that_cannot_be_analysed_are_refused_by_name() -> None:
    first, second, broken, exact = (build(SPEC, seed).eval() for seed in range(4))
    name = next(iter(dict(broken.named_parameters())))
    with torch.no_grad():
        broken.get_parameter(name).view(-1)[0] = float("nan")
    exact.double()
    x, y = torch.randn(6, 1, 8, 8), [0, 1, 2, 0, 1, 2]
    with refused("south", name, "NaN"):
        analyse({"north": first, "south": broken}, data=x, labels=y)
    with refused("data=", "NaN"):
        analyse([first, second], data=x * float("nan"), labels=y)
    with refused("model 0", "uint8"):
        analyse([first, second], data=x.byte(), labels=y)
    with refused("model 0", "3 x 8 x 8"):
        analyse([first, second], data=x.expand(6, 3, 8, 8), labels=y)
    with refused("6", "2"):
        analyse([first, second], data=x, labels=[0, 1])
    with refused("float32", "float64"):
        analyse([first, exact], data=x, labels=y)
    with refused("two", "1"):
        analyse([first], data=x, labels=y)
    with refused("model 1", "str"):
        analyse([first, "b.safetensors"], data=x, labels=y)
    with refused("list"):
        analyse(first, data=x)
    with refused("empty"):
        analyse([], data=x)
    with refused("-1", "0"):
        analyse([first, second], data=x, labels=[0, 1, 2, 0, 1, -1])
    with refused("6 x 3", "multiclass"):
        analyse([first, second], data=x, labels=torch.ones(6, 3).long())
    several = mark(build(SPEC, 1), "multilabel")
    with refused("6", "multilabel"):
        analyse([several, several], data=x, labels=y)
    with refused("model 0", "multiclass", "model 1", "multilabel"):
        analyse([first, several], data=x, labels=y)
    with refused("labels"):
        analyse(["a.safetensors", "b.safetensors"], labels=y)


def test_models_that_only_guess_have_no_verdict() -> None:
    networks = [build(SPEC, seed).eval() for seed in range(2)]
    x = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    answers = torch.stack([network(x).argmax(1) for network in networks])
    y = next(each for each in range(3) if not (answers == each).any(0).all()) * torch.ones(24).long()
    for name in ("barriers", "heads", "features"):
        found = analyse(networks, data=x, labels=y, only=[name], device="cpu")  # all images are of one class
        assert NOTHING in found.answer
        assert "commonest class" in found.findings[name].sentence


def test_a_run_is_diagnosed_and_its_report_says_why(experiment, tmp_path) -> None:
    result = run(experiment | {"diagnose": "full"}, out=tmp_path / "full")
    kept = pd.read_parquet(tmp_path / "full" / "diagnosis.parquet")
    assert set(kept["analysis"]) == {"drift", "barriers", "heads", "landscape"}
    why = why_section(result.diagnosis)
    assert why is not None
    assert len(why["pictures"]) == 4
    text = " ".join(Text((tmp_path / "full" / "report.html").read_text(encoding="utf-8")).text.split())
    assert " ".join(why["sentence"].split()) in text
    angles = kept[(kept["analysis"] == "drift") & (kept["table"] == "pairs")]
    assert angles["task_angle"].notna().all()  # the start of the fine-tuning is known

    found = analyse([tmp_path / "full"], only=["drift", "heads"], out=tmp_path / "why", device="cpu")
    pairs = found.findings["drift"].tables["pairs"]
    np.testing.assert_allclose(pairs["angle"], angles["angle"])
    assert "images" in found.left["heads"]  # they were arrays in memory
    assert not (tmp_path / "full" / "report.html").samefile(write_analysis(found))
    pool = next((tmp_path / "full").glob("seed-*/*/pool"))
    first, *others = sorted(path.stem for path in pool.glob("*.safetensors"))
    for path in [path for name in others for path in pool.glob(f"{name}.*")]:
        path.unlink()
    with refused(first, "two", without=tuple(others)):
        analyse([tmp_path / "full"], out=tmp_path / "one", device="cpu")


def test_a_quick_diagnosis_spends_little_and_off_nothing(experiment, tmp_path, monkeypatch) -> None:
    """36 images of 3 hospitals in 3 epochs: 2 % of three passes are 19 images, too few for a path."""
    quick = run(experiment, out=tmp_path / "quick")
    assert set(quick.diagnosis["analysis"]) == {"drift"}
    off = run(experiment | {"diagnose": False}, out=tmp_path / "off")  # as YAML reads off
    assert off.diagnosis.empty
    assert not (tmp_path / "off" / "diagnosis.parquet").exists()
    assert quick.provenance["config_hash"] == off.provenance["config_hash"]
    pd.testing.assert_frame_equal(
        quick.table.drop(columns="seconds"), off.table.drop(columns="seconds"), check_like=True
    )
    monkeypatch.setattr(diagnosis, "SHARE", 1.0)
    path = run(experiment, out=tmp_path / "path")
    assert set(path.diagnosis["analysis"]) == {"drift", "barriers"}
    paths = path.diagnosis[path.diagnosis["table"] == "paths"]
    assert len(paths) == 2 * diagnosis.POINTS  # one pair, norms kept and anew


def test_a_diagnosis_that_fails_is_a_sentence_and_the_run_goes_on(experiment, tmp_path, monkeypatch) -> None:
    def broken(*given: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(diagnosis, "diagnose", broken)
    result = run(experiment, out=tmp_path / "run")
    assert result.failures.empty
    assert "no such thing" in why_section(result.diagnosis)["sentence"]
