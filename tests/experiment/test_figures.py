"""Every figure is drawn for the smallest and the odd cases, and its words hold the numbers of the data."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from fedmerge.reports import figures
from fedmerge.reports.figures import NARROW, WIDE, render
from fedmerge.reports.figures.style import wrapped

WIDTHS = pytest.mark.parametrize("width", [WIDE, NARROW])


def texts(figure: Figure) -> str:
    """All text in a figure."""
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@WIDTHS
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_a_cohort(cohorts, channels, width):
    cohort = cohorts(channels=channels)
    for draw in (figures.federation_map, figures.samples, figures.class_shares):
        figure = draw(cohort, width=width)
        assert isinstance(figure, Figure)
        assert figure.get_figwidth() == width
        assert all(name in texts(figure) for name in ("north", "south", "coast"))
        assert Image.open(io.BytesIO(render(figure, "png"))).width == round(200 * width)


def test_federation_of_many_hospitals_names_seven_and_counts_the_rest(cohorts):
    """12 hospitals: 7 named, 5 counted with 5 x 12 images; every one has 12 training images, 144 in all."""
    cohort = cohorts(training=[f"h{i}" for i in range(12)])
    text = texts(figures.federation_map(cohort))
    assert "h6" in text
    assert "h7" not in text
    assert "and 5 more hospitals" in text
    assert "60 training images" in text
    assert "12 hospitals train on 144 images" in figures.describe_federation_map(cohort).text


def test_federation_that_leaves_each_out_in_turn(cohorts):
    cohort = cohorts(unseen=())
    assert "Each hospital in turn" in texts(figures.federation_map(cohort, each=True))
    assert "none is marked" in texts(figures.federation_map(cohort))


def test_samples_show_each_site_and_class(cohorts):
    """2 classes on 8 columns, 3 sites of 20 images: 24 pictures; 10 classes: 8 columns and 24 pictures."""
    for names in (("no", "yes"), tuple(f"class {i}" for i in range(10))):
        figure = figures.samples(cohorts(class_names=names))
        assert len(figure.axes[0].images) == 24


def test_samples_mark_a_class_that_a_hospital_lacks(cohorts):
    """Labels of every site are 0 and 1, the third class has no image anywhere: its columns say none."""
    cohort = cohorts(class_names=("no", "yes"))
    sites = tuple(type(s)(**(vars(s) | {"class_names": ("no", "yes", "rare")})) for s in cohort.sites)
    figure = figures.samples(type(cohort)("t", "T", sites), per_site=3)
    assert len(figure.axes[0].images) == 6
    assert texts(figure).split().count("none") == 3


def test_a_sample_is_the_hospitals_own_image(cohorts):
    cohort = cohorts(channels=3)
    shown = figures.samples(cohort, per_site=2).axes[0].images[0].get_array()
    assert np.array_equal(shown, cohort.sites[0].train.images[0].permute(1, 2, 0))


@pytest.mark.parametrize("n_classes", [2, 14])
def test_class_shares_are_per_cent_of_each_row(cohorts, n_classes):
    """Classes take turns in 12 + 4 + 4 images: of 2 classes each has half; of 14, the first has 3 of 20."""
    cohort = cohorts(class_names=[f"class {i}" for i in range(n_classes)])
    figure = figures.class_shares(cohort, width=NARROW)
    share = "50" if n_classes == 2 else "15"
    assert share in [text.get_text() for text in figure.axes[0].texts]
    assert f"{share}\u00a0%" in figures.describe_class_shares(cohort).text


@WIDTHS
@pytest.mark.parametrize(
    "case", [{}, {"seeds": 3}, {"rounds": 1}, {"rounds": 0}, {"sites": [f"h{i}" for i in range(12)]}]
)
def test_rounds(histories, width, case):
    assert isinstance(figures.rounds(histories(**case), width=width), Figure)


def test_rounds_in_words(histories):
    """Accuracy 1 - 1 / (r + 1): 50 % in round 1, 75 % in round 3; loss 1 / r: 1.00 to 0.33, then 0.25."""
    text = figures.describe_rounds(histories()).text
    assert "rose from 50.0\u00a0% to 75.0\u00a0% between round 1 and 3" in text
    assert "training loss 1.00 to 0.33" in text
    assert "fine-tuning 0.25" in text


def test_rounds_without_history(histories):
    assert "No training" in texts(figures.rounds(histories()[:0]))


def test_lines_are_the_mean_over_seeds(histories):
    """Seeds add 0, 0.1 and 0.2 to the loss 1 / r: means 1.1, 0.6, 0.4333."""
    axes = figures.rounds(histories(seeds=3)).axes[0]
    line = next(line for line in axes.lines if line.get_label() == "north")
    assert line.get_ydata() == pytest.approx([1.1, 0.6, 1 / 3 + 0.1])


@WIDTHS
@pytest.mark.parametrize("case", [{}, {"batches": 1}, {"sources": [f"h{i}" for i in range(11)]}])
def test_coefficients(traces, width, case):
    assert isinstance(figures.coefficients(traces(**case), "iid", width=width), Figure)


def test_coefficients_fill_the_panel_also_when_sources_are_joined(traces):
    """11 sources: seven and the other four as one, stacked to exactly one."""
    figure = figures.coefficients(traces(sources=[f"h{i}" for i in range(11)]), "iid")
    for axes in figure.axes:
        areas = [area.get_paths()[0].vertices for area in axes.collections]
        assert len(areas) == 8
        assert max(area[:, 1].max() for area in areas) == pytest.approx(1.0)
    assert "4 others" in texts(figure)


def test_coefficients_in_words(traces):
    """Encoder 1 : 2, so south has 2 / 3; head equal."""
    text = figures.describe_coefficients(traces(), "temporal", "entropy-adaptive").text
    assert "gives south the largest part of the encoder at coast, 67\u00a0% on average" in text
    assert "north 0.33 and 0.50" in text


def test_coefficients_that_are_not_there(traces):
    for frame, stream, method in (
        (traces()[:0], "iid", None),
        (traces(), "nowhere", None),
        (traces(), "iid", "x"),
    ):
        assert "No coefficients" in texts(figures.coefficients(frame, stream, method))


@WIDTHS
@pytest.mark.parametrize("case", [{}, {"streams": ["iid"]}, {"seeds": (0, 1, 2), "sites": ("a", "b")}])
def test_accuracy(tables, width, case):
    figure = figures.accuracy(tables(**case), width=width)
    assert "entropy-adaptive" in texts(figure)
    assert ("lowest to highest" in texts(figure)) == ("seeds" in case)


def test_accuracy_dot_is_the_mean_and_its_line_the_range(tables):
    """greedy has 78 % with seed 0 and 80 % with seed 1: a dot at 79 and a line from 78 to 80."""
    table = tables(streams=["iid"], seeds=(0, 1))
    table["accuracy"] += 0.02 * table["seed"] * (table["method"] == "greedy")
    drawn = [
        tuple(np.asarray(line.get_xdata(), dtype=float).round(6))
        for line in figures.accuracy(table).axes[0].lines
    ]
    assert (79.0,) in drawn
    assert (78.0, 80.0) in drawn


def test_accuracy_of_many_hospitals_shows_best_median_and_worst(tables):
    table = tables({f"alone:h{i}": 0.5 + 0.01 * i for i in range(11)} | {"mean": 0.7})
    shown = texts(figures.accuracy(table))
    assert all(f"alone:h{i}" in shown for i in (10, 5, 0))
    assert "alone:h7" not in shown


def test_same_figure_same_bytes_and_settings_untouched(cohorts):
    before = dict(matplotlib.rcParams)
    first, second = (render(figures.class_shares(cohorts()), "svg") for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before


def test_figures_are_not_in_pyplots_hands(tables):
    figures.accuracy(tables())
    assert pyplot.get_fignums() == []


def test_wrapped_lines_fit():
    """At 0.54 em a letter, 2 inches hold 144 / (0.54 x 7.5) = 35 letters."""
    assert max(map(len, wrapped("word " * 40, 2.0, 7.5))) <= 35
