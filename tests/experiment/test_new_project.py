"""A project that `fedmerge new` writes: it runs as it is, and every option that it only mentions is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import yaml
from facts import refused
from PIL import Image
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.data import CohortSpec, build_cohort, read_cohort
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.folder.reopen import read_saved
from fedmerge.reports import page
from fedmerge.schema.faults import faults_of
from fedmerge.workflows.new_project import FILES, SCHEMAS, TEMPLATE, new_project
from fedmerge.workflows.own_hospitals import USUAL_SIZE, Hospitals, cohort_text
from fedmerge.workflows.reference.fields import models_in
from fedmerge.workflows.run import run
from fedmerge.workflows.served import find_models, samples

OPTION = re.compile(r"^( *)# (\w+): (.*?)(  +#.*)?$")
SMALL = ["training.rounds=1", "training.epochs=1", "training.fine_tune.epochs=1", "model.options.width=4"]


def test_the_project_runs_as_it_is_with_its_own_method_and_metric(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "image_of", lambda *what, **options: "data:image/svg+xml;base64,")
    folder = tmp_path / "my study"
    assert {path.relative_to(folder).as_posix() for path in new_project(folder)} >= set(FILES)
    monkeypatch.chdir(folder)
    changes = [part for each in SMALL for part in ("--set", each)]
    done = CliRunner().invoke(app, ["run", "experiment.yaml", *changes], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = pd.read_parquet(folder / "runs" / "my-study-001" / "results.parquet").set_index("method")
    assert {"mean", "by-size", "ensemble-logits", "entropy-adaptive"} <= set(rows.index)
    assert rows["least_found"].between(0, 1).all()
    assert (rows["least_found"] <= rows["balanced_accuracy"] + 1e-12).all()  # a least is at most a mean


def test_files_name_a_schema_that_they_fit(tmp_path):
    new_project(tmp_path)
    for file, kind in SCHEMAS.items():
        path = tmp_path / file
        named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
        schema = (path.parent / named[1]).resolve()
        assert schema == tmp_path.resolve() / ".schemas" / f"{kind}.json"
        jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema.read_text()))


def pictures(folder: Path, sides: tuple[int, ...], classes: tuple[str, ...] = ("ill", "well")) -> Path:
    """A hospital's folder: a picture of each side in each class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number, side in enumerate(sides):
            Image.new("L", (side, 30), number).save(folder / name / f"{number}.png")
    return folder


def test_hospitals_of_ones_own_are_named_by_paths_seen_from_their_file(tmp_path):
    """The last is unseen; images that are alike and small stay as they are."""
    for name in ("north", "coast"):
        pictures(tmp_path / "images" / name, (30,) * 12)
    named = [f"{name}={tmp_path}/images/{name}" for name in ("north", "coast")]
    done = CliRunner().invoke(app, ["new", str(tmp_path / "study"), *named], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "sites check" in done.output
    path = tmp_path / "study" / "sites" / "hospitals.yaml"
    sites = yaml.safe_load(path.read_text())["sites"]
    assert [site["source"] for site in sites] == ["folder:../../images/north", "folder:../../images/coast"]
    assert [site.get("unseen", False) for site in sites] == [False, True]
    cohort = build_cohort(read_cohort(path), seed=0)
    assert cohort.class_names == ("ill", "well")
    assert cohort.shape == (1, 30, 30)


def test_images_of_several_sizes_or_large_ones_get_a_size_and_ones_told_is_kept(tmp_path):
    small, odd, large = (
        pictures(tmp_path / name, sides)
        for name, sides in (("small", (30,)), ("odd", (31, 32)), ("large", (USUAL_SIZE + 1,)))
    )
    for other, told, size in ((odd, None, USUAL_SIZE), (large, None, USUAL_SIZE), (odd, 48, 48)):
        own = Hospitals({"a": small, "b": other}, size=told)
        assert yaml.safe_load(cohort_text(tmp_path / "study", own))["size"] == size
    with refused("two hospitals"):
        new_project(tmp_path / "study", Hospitals({"a": small}))
    with refused("'c'", "a, b"):
        new_project(tmp_path / "study", Hospitals({"a": small, "b": odd}, unseen=("c",)))
    assert not (tmp_path / "study").exists()


def mentioned(file: str) -> list[tuple[int, str, str]]:
    """The options that a template shows behind a #: line, name and value."""
    lines = (TEMPLATE / file).read_text().splitlines()
    return [
        (number, found[2], found[3]) for number, line in enumerate(lines) if (found := OPTION.match(line))
    ]


@pytest.mark.parametrize(
    ("file", "model"), [("experiment.yaml", Experiment), ("sites/hospitals.yaml", CohortSpec)]
)
def test_every_option_that_is_only_mentioned_can_be_switched_on(file, model):
    """One at a time, in its place; one that is set above is the other way to write it."""
    lines = (TEMPLATE / file).read_text().splitlines()
    for number, name, value in mentioned(file):
        indent = lines[number].partition("#")[0]
        before = [line for line in lines if not re.match(rf"{indent}{name}:", line)]
        place = before.index(lines[number])
        text = "\n".join([*before[:place], f"{indent}{name}: {value}", *before[place + 1 :]])
        data = yaml.safe_load(text.replace("PROJECT", "x")) | ({"name": "x"} if model is CohortSpec else {})
        data.pop("plugins", None)
        data["fusion"] = ["mean"] if model is Experiment else None
        _, faults = faults_of(model, {key: each for key, each in data.items() if each is not None})
        assert not faults, (name, [fault.sentences for fault in faults])


def test_the_experiment_shows_every_option_of_every_section_at_its_top():
    text = (TEMPLATE / "experiment.yaml").read_text()
    shown = set(re.findall(r"(?:^|[#\s{])(\w+):", text, re.MULTILINE))
    assert set(Experiment.model_fields) <= shown
    for section in ("training", "evaluation", "federation"):
        (model,) = list(models_in(Experiment.model_fields[section].annotation))[:1]
        assert set(model.model_fields) <= shown, section


def test_a_folder_that_holds_anything_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with refused(tmp_path.name, "not empty"):
        new_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with refused("notes.txt", "not empty"):
        new_project(tmp_path / "notes.txt")


def test_an_experiment_of_six_lines_is_shipped():
    path = Path(__file__).parents[2] / "configs" / "minimal.yaml"
    assert len(path.read_text().splitlines()) == 6
    read, faults = faults_of(Experiment, yaml.safe_load(path.read_text()))
    assert read is not None
    assert not faults


def test_a_run_finds_images_beside_the_project_again(tmp_path, monkeypatch):
    """Its config.yaml is repeated, its report's hospitals have their images, its service has samples."""
    monkeypatch.setattr(page, "image_of", lambda *what, **options: "data:image/svg+xml;base64,")
    for name in ("north", "coast"):
        pictures(tmp_path / "images" / name, (30,) * 12)
    new_project(
        tmp_path / "study", Hospitals({name: tmp_path / "images" / name for name in ("north", "coast")})
    )
    monkeypatch.chdir(tmp_path / "study")
    run("experiment.yaml", changes=[*SMALL, "fusion=[mean]", "testtime=[]", "plugins=[]"], out="done")
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "study" / "done" / "config.yaml"
    _, spec = read_experiment(config)
    assert build_cohort(spec, 0).shape == (1, 30, 30)
    _, cohort = read_saved(config)
    assert len(cohort["coast"].everything.labels) == 24
    assert samples(find_models([config.parent]), "run").shape == (24, 1, 30, 30)
