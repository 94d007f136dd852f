"""What is drawn of In-Model Merging is what the frames hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedmerge.reports.figures import (
    describe_effective_rank,
    describe_merges,
    describe_similarity,
    effective_rank,
    merges,
    render,
    similarity,
)

LAYERS = pytest.mark.parametrize("number", [1, 4, 20])
EDGES = [-1.0, -0.5, 0.0, 0.5, 1.0]


def layers(number):
    return [f"features.{i}.conv" for i in range(number)]


def merged(number, epochs=3):
    """Layer i of 10 filters: 5 (i + 1) e merges in epoch e."""
    return pd.DataFrame(
        {"epoch": e, "layer": layer, "merges": 5 * (i + 1) * e, "filters": 10}
        for e in range(1, epochs + 1)
        for i, layer in enumerate(layers(number))
    )


def ranks(number, runs=("without", "with")):
    """Of 40 filters 30 at epoch 0; with merging layer i loses i + 1 an epoch, without nothing."""
    return pd.DataFrame(
        {"run": run, "epoch": e, "layer": layer, "rank": 30.0 - (i + 1) * e * (run == "with"), "filters": 40}
        for run in runs
        for e in range(3)
        for i, layer in enumerate(layers(number))
    )


def cosines(number, runs=("without", "with"), start=(0.0, 0.5, 0.5, 0.0)):
    """At the start half the pairs on either side of zero; at epoch 5 with merging all are above 0.5."""
    return pd.DataFrame(
        {"run": run, "epoch": e, "layer": layer, "low": low, "high": high, "share": share}
        for run in runs
        for e in (0, 5)
        for layer in layers(number)
        for low, high, share in zip(
            EDGES, EDGES[1:], (0.0, 0.0, 0.0, 1.0) if run == "with" and e else start, strict=False
        )
    )


@pytest.mark.filterwarnings("error")
@LAYERS
def test_every_case_is_neat(number, width, neat):
    neat(merges(merged(number), width), width)
    neat(effective_rank(ranks(number), width), width)
    neat(similarity(cosines(number), width), width)


def test_merges_per_filter():
    """Layer i in epoch e: 5 (i + 1) e of 10 filters."""
    lines = merges(merged(2)).axes[0].lines
    assert np.allclose(lines[0].get_xydata(), [[1, 0.5], [2, 1.0], [3, 1.5]])
    assert np.allclose(lines[1].get_ydata(), [1, 2, 3])
    caption = describe_merges(merged(2))
    assert caption.title == (
        "In features.1.conv a filter is merged 2.00 times an epoch, the most of 2 layers; "
        "in features.0.conv 1.00 times"
    )
    assert "features.1.conv 1.00 to 3.00" in caption.detail


def test_merges_of_seeds_are_averaged():
    two = pd.concat([merged(1), merged(1).assign(merges=0)])
    assert np.allclose(merges(two).axes[0].lines[0].get_ydata(), [0.25, 0.5, 0.75])


def test_many_layers_are_a_heat_map_in_the_order_of_the_network():
    axes = merges(merged(9)).axes[0]
    assert axes.collections[0].get_array().shape == (9, 3)
    assert axes.collections[0].get_array()[8, 2] == pytest.approx(13.5)
    assert [label.get_text() for label in axes.get_yticklabels()] == layers(9)


def test_effective_rank_with_and_without():
    figure = effective_rank(ranks(2))
    with_merging, without = figure.axes[1].lines
    assert list(with_merging.get_ydata()) == [30, 28, 26]
    assert list(without.get_ydata()) == [30, 30, 30]
    assert figure.axes[1].get_title(loc="left") == "features.1.conv (40 filters)"
    assert describe_effective_rank(ranks(2)).title == (
        "At epoch 2 the effective rank is lower with merging than without in 2 of 2 layers; they differ most "
        "in features.1.conv, 26.0 against 30.0 of 40 filters"
    )


def test_effective_rank_of_many_layers_is_the_difference():
    """Layer 8 has lost 9 x 2 of 40 filters in epoch 2: 45 %; the colours are centred at no difference."""
    mesh = effective_rank(ranks(9)).axes[0].collections[0]
    assert mesh.get_array()[8, 2] == pytest.approx(-45)
    assert mesh.get_clim() == (-45, 45)


@LAYERS
def test_effective_rank_of_one_run(number):
    frame = ranks(number, runs=("with",))
    assert effective_rank(frame).axes
    assert describe_effective_rank(frame).title.endswith("with merging")


def test_similarity_is_drawn_in_per_cent_first_against_last():
    """Both start alike: one line for the start, two for the end."""
    figure = similarity(cosines(1))
    start, with_merging, without = (patch.get_data() for patch in figure.axes[0].patches)
    assert list(start.edges) == EDGES
    assert list(start.values) == list(without.values) == [0, 50, 50, 0]
    assert list(with_merging.values) == [0, 0, 0, 100]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "both, epoch 0", "with merging, epoch 5", "without merging, epoch 5",
    ]  # fmt: skip


def test_similarity_of_different_starts_is_four_lines():
    frame = cosines(1)
    frame.loc[(frame["run"] == "with") & (frame["epoch"] == 0), "share"] = 0.25
    assert len(similarity(frame).axes[0].patches) == 4


def test_similarity_shows_first_two_middle_and_last_layer():
    """Of 10 layers those at 0, 3, 6 and 9."""
    titles = [axes.get_title(loc="left") for axes in similarity(cosines(10)).axes]
    assert titles == [f"features.{i}.conv" for i in (0, 3, 6, 9)]


def test_similarity_in_words():
    """Bins at their middle: 0.75 where all pairs are in the last bin, (-0.25 + 0.25) / 2 = 0 at the start."""
    caption = describe_similarity(cosines(2))
    assert caption.title == (
        "At epoch 5 the mean cosine of two filters is 0.750 with and 0.000 without merging, "
        "at epoch 0 it was 0.000 with and without merging"
    )
    both_seeds = pd.concat([cosines(2), cosines(2)])
    assert describe_similarity(both_seeds) == caption
    assert list(similarity(both_seeds).axes[0].patches[1].get_data().values) == [0, 0, 0, 100]


@pytest.mark.parametrize(
    ("draw", "frame"), [(merges, merged(1)), (effective_rank, ranks(1)), (similarity, cosines(1))]
)
def test_without_rows_it_says_so(draw, frame, texts):
    assert texts(draw(frame[:0])).startswith("No ")


@pytest.mark.parametrize(
    ("draw", "frame"), [(merges, merged(3)), (effective_rank, ranks(3)), (similarity, cosines(3))]
)
def test_order_of_epochs_and_runs_changes_nothing(draw, frame):
    """The order of the rows says the order of the layers, and nothing else."""
    other = frame.iloc[::-1].sort_values("layer", kind="stable")
    assert render(draw(frame), "svg") == render(draw(other), "svg")
