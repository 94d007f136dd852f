"""Each analysis has a figure, for a page and for a phone, that holds what its tables hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from networks_of_diagnosis import convolutional, pixels

from fedmerge.analysis.diagnosis import (
    ANALYSES,
    Finding,
    Subject,
    barriers,
    bounds,
    drift,
    landscape,
    templates,
)
from fedmerge.analysis.diagnosis import heads as heads_of
from fedmerge.analysis.diagnosis.rows import findings_of, rows_of
from fedmerge.reports.figures import NARROW, WIDE
from fedmerge.reports.figures.diagnosis import DRAWN, describe, draw


@pytest.fixture(scope="module")
def found() -> dict[str, Finding]:
    models = {f"m{seed}": convolutional(seed) for seed in range(3)}
    images = pixels(40, side=6)
    subject = Subject.of(models, images, torch.arange(40) % 3)
    return {
        "drift": drift.drift(subject),
        "heads": heads_of.heads(subject),
        "barriers": barriers.barriers(subject, points=3),
        "landscape": landscape.landscape(subject, grid=4),
        "templates": templates.templates(subject),
        "features": made("models", [2, 3], method=["mean", "ensemble-logits"], accuracy=0.5, gflops=1.0),
        "magnification": made(
            "factor", [0.1, 100.0], who=["mean", "ensemble"], precision="float32", accuracy=0.4
        ),
        "bounds": bounds.bounds(Subject.of(models, images)),
        "tasks": made("accuracy", [0.5, 0.7], task=["a", "b"], method=["mean"]),
        "filters": made("rank", [1.0, 2.0], model=["a", "mean"], filters=4, share=0.1),
        "neurons": made("depth", [0, 1], method=["kf"], grouping=0.1, approximation=0.2),
        "settings": made(
            "held_out", [0.1, 0.2], name=["x", "y"], chosen=[True], agreement=0.5, accuracy=0.4, seconds=1.0
        ),
        "inmerge": inmerged(),
    }


def made(over: str, values: list[float], **columns: object) -> Finding:
    """A table with a row for each value and each combination that lists in the other columns give."""
    frame = pd.DataFrame({over: values})
    for name, given in columns.items():
        frame = frame.merge(pd.DataFrame({name: given if isinstance(given, list) else [given]}), how="cross")
    return Finding({"table": frame}, "What a table says.", 0.5)


def inmerged() -> Finding:
    rank = pd.DataFrame({"run": ["with", "without"] * 2, "epoch": [0, 0, 1, 1], "layer": "0", "rank": 3.0})
    merges = pd.DataFrame({"run": "with", "epoch": [1], "layer": "0", "merges": 3, "filters": 4})
    return Finding({"merges": merges, "effective_rank": rank.assign(filters=4)}, "What it says.", 0.1)


def test_every_analysis_of_ours_has_a_figure(found) -> None:
    assert set(DRAWN) == set(found) == set(ANALYSES.names())


@pytest.mark.parametrize("name", list(DRAWN))
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_finding_is_drawn_at_both_widths_under_its_sentence(found, name, width) -> None:
    figure = draw(name, found[name], width)
    assert figure is not None
    assert figure.get_size_inches()[0] == pytest.approx(width)
    if name != "inmerge":  # whose figure has a title of its own
        title = figure.get_suptitle().replace("\n", " ")
        assert title == found[name].sentence.rstrip(".")


def test_the_lines_of_a_path_are_its_points(found) -> None:
    figure = draw("barriers", found["barriers"])
    assert figure is not None
    paths = found["barriers"].tables["paths"]
    drawn = [line.get_ydata() for line in figure.axes[0].get_lines()]
    assert len(drawn) == paths.groupby(["first", "second", "norms"]).ngroups
    first = paths[(paths["first"] == "m0") & (paths["second"] == "m1") & (paths["norms"] == "kept")]
    assert any(np.allclose(first["accuracy"], line) for line in drawn)


def test_a_figure_in_words_has_the_sentence_and_the_numbers(found) -> None:
    text = describe(found["heads"]).text
    assert text.startswith(found["heads"].sentence)
    assert f"{found['heads'].frame['loss'].min():.3g}" in text
    assert draw("of a plug-in", found["heads"]) is None


def test_findings_survive_being_rows(found) -> None:
    few = {name: found[name] for name in ("drift", "barriers")}
    rows = pd.DataFrame(rows_of(few, {"heads": "needs images."}))
    back = findings_of(rows)
    assert list(back) == ["drift", "barriers"]
    for name, finding in few.items():
        assert back[name].sentence == finding.sentence
        assert list(back[name].tables) == list(finding.tables)
        for table, frame in finding.tables.items():
            kept = frame.replace([np.inf, -np.inf], np.nan).dropna(axis=1, how="all")
            pd.testing.assert_frame_equal(back[name].tables[table], kept, check_dtype=False, check_like=True)
    assert findings_of(pd.DataFrame()) == {}
