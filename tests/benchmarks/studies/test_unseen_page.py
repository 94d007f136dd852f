"""The page on unseen hospitals: from made-up rows whose numbers are known, and from the study, small."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import RESULTS
from benchmarks.pages import kept
from benchmarks.studies import unseen_batches, unseen_page, unseen_scores, unseen_tables
from fedmerge.workflows.bench.bench import bench
from tests.facts import refused

GAIN = {"federated": 0.0, "mean": -0.015, "ensemble-logits": 0.01, "stream-adaptive": 0.03, "kf": -0.1}
PASSES = {"ensemble-logits": 3.0, "stream-adaptive": 1.75}
COHORTS = ("wbc4", "melanoma4")
KINDS = (unseen_scores.SCRATCH, unseen_scores.AGAIN)
"""Networks from scratch, and pretrained ones: each has a headline."""
LOST = ("melanoma4", "south", 1)
"""Here the mean gives every image one class."""


def rows_of(cohort: str) -> list[dict[str, Any]]:
    """Two hospitals of 0.6 and 0.4, two seeds, two streams; on temporal the default has 0.08 less."""
    rows = []
    for site, seed, stream, method in itertools.product(
        ("north", "south"), (0, 1), ("iid", "temporal"), GAIN
    ):
        less = 0.08 if (method, stream) == ("stream-adaptive", "temporal") else 0.0
        score = {"north": 0.6, "south": 0.4}[site] + GAIN[method] - less
        row = {"seed": seed, "site": site, "stream": stream, "method": method, "balanced_accuracy": score}
        row |= {"auroc": 0.8, "accuracy": score, "ece": 0.1, "seconds": 1.0, "n": 50, "backward_passes": 0.0}
        row |= {"forward_passes": PASSES.get(method, 1.0)}
        row |= {"constant": method == "mean" and (cohort, site, seed) == LOST}
        rows.append(row)
    return rows


@pytest.fixture
def seen(tmp_path: Path) -> unseen_scores.Seen:
    for cohort in COHORTS:
        name = f"bench-unseen-{cohort}"
        pd.DataFrame(rows_of(cohort)).to_csv(tmp_path / f"{name}.csv", index=False)
        chosen = {"site": "north", "seed": 0, "stream": "iid", "method": "stream-adaptive", "sources": 3}
        chosen |= {"correlation": -0.5, "gain": -0.01, "regret": 0.1}
        pd.DataFrame([chosen]).to_csv(unseen_scores.choice_file(tmp_path, name), index=False)
    return unseen_scores.read(tmp_path)


def test_a_part_of_a_study_is_read_by_the_values_of_its_axes(tmp_path: Path) -> None:
    """Of one CSV with two kinds of networks each part has its own rows; none where the study did not run."""
    both = [
        row | {"norm": norm, "data": "pacs"}
        for norm in ("batch-norm", "group-norm")
        for row in rows_of("pacs")
    ]
    table = pd.DataFrame(both)
    table.loc[table["norm"] == "group-norm", "balanced_accuracy"] += 0.05
    table.to_csv(tmp_path / "bench-unseen-scratch.csv", index=False)
    batch, group = (
        unseen_scores.average(unseen_scores.read(tmp_path, parts)).loc["kf", "average"]
        for parts in (unseen_scores.SCRATCH, unseen_scores.GROUP)
    )
    assert (batch, group) == pytest.approx((0.4, 0.45))
    with refused("bench-unseen-again", "scores"):
        unseen_scores.read(tmp_path, unseen_scores.AGAIN)


def test_rows_of_a_later_run_take_the_place_of_their_own_cells_alone(tmp_path: Path) -> None:
    """Seed 1 is measured again and seed 2 comes; seed 0, and seed 1 of the other level, stay."""
    file = tmp_path / "scores.csv"
    first = [(norm, seed, 0.1) for norm in ("batch", "group") for seed in (0, 1)]
    later = [("batch", 1, 0.2), ("batch", 2, 0.2)]
    for rows in (first, later):
        table = pd.DataFrame(rows, columns=["norm", "seed", "score"])
        unseen_scores._write(table, file, ["norm", "seed"])
    kept = pd.read_csv(file).set_index(["norm", "seed"])["score"]
    assert kept.to_dict() == {
        ("batch", 0): 0.1, ("group", 0): 0.1, ("group", 1): 0.1, ("batch", 1): 0.2, ("batch", 2): 0.2
    }  # fmt: skip


def test_sizes_of_a_batch_stand_side_by_side_and_orders_of_long_streams(tmp_path: Path) -> None:
    """In batches of 1 kf has 10 points less than the federated model, in those of 64 20 more."""
    rows = [row | {"batch_size": size} for size in unseen_scores.BATCHES for row in rows_of("digits")]
    table = pd.DataFrame(rows)
    table.loc[(table["batch_size"] == "64") & (table["method"] == "kf"), "balanced_accuracy"] += 0.3
    table.to_csv(tmp_path / "bench-unseen-batches.csv", index=False)
    sizes = line(unseen_batches.sizes(tmp_path), "`kf`")
    assert sizes[1:5] == ["40.0", "40.0", "40.0", "70.0"]
    assert [cell.split(" ")[0] for cell in sizes[5:]] == ["−10.0", "+20.0"]
    assert line(unseen_batches.long_streams(tmp_path), "`stream-adaptive`")[1:] == ["53.0", "45.0", "49.0"]


def line(table: str, start: str) -> list[str]:
    """The cells of the row that begins so."""
    (found,) = [row for row in table.splitlines() if row.startswith(f"| {start} ")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_place_whose_mean_is_constant_is_left_out_for_all_and_counted(seen: unseen_scores.Seen) -> None:
    assert unseen_scores.broken(seen.rows) == {"melanoma4 1 melanoma4 south"}
    kept = seen.working.rows
    assert len(kept) == len(seen.rows) - 2 * len(GAIN)  # two streams
    text = unseen_tables.left_out(seen)
    assert "melanoma: 1 of 4 hospitals" in text
    assert "blood cells: 0 of 4 hospitals" in text


def test_a_cohort_with_most_places_broken_has_no_part_in_averages(seen: unseen_scores.Seen) -> None:
    """Three of the four places of melanoma: what is left of it counts no more, and the page says so."""
    lost = (seen.rows["cohort"] == "melanoma4") & (seen.rows["method"] == "mean") & (seen.rows["seed"] == 0)
    table = replace(seen, rows=seen.rows.assign(constant=seen.rows["constant"] | lost))
    assert unseen_scores.failed(table.rows) == {"melanoma4"}
    assert list(unseen_scores.average(table)) == ["wbc4", "average"]
    assert "Training failed" in unseen_tables.left_out(table)
    assert "Training failed" not in unseen_tables.left_out(seen)


def test_averages_are_of_hospitals_then_cohorts(seen: unseen_scores.Seen) -> None:
    """South has one seed left in melanoma and still counts as much as north: 0.5 in both cohorts."""
    table = unseen_scores.average(seen)
    assert table.loc["federated"].tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert table.loc["stream-adaptive", "average"] == pytest.approx(0.49)  # 0.53 and 0.45
    assert line(unseen_tables.overall(seen), "`kf`")[3] == "40.0"


def test_the_headline_counts_cells_more_than_two_points_below(seen: unseen_scores.Seen) -> None:
    """+3 points on i.i.d. and -5 on temporal at four hospitals; 1.75 of 4 passes; p is 3 times 2 / 2^4."""
    text = unseen_tables.headline(seen)
    assert "44 % of the M + 1 passes" in text
    assert "below the federated model in 4 of 8 cells of hospital and stream, at worst by −5.0" in text
    assert "−1.0 (−1.0 to −1.0; p = 0.375) against the federated model" in text


def test_a_candidate_must_be_cheap_and_near_the_federated_model(seen: unseen_scores.Seen) -> None:
    table = unseen_tables.development(seen)
    assert line(table, "`stream-adaptive`")[-3:] == ["−5.0", "44", ""]  # too far below in a cell
    assert line(table, "`mean`")[-3:] == ["−1.5", "25", "yes"]
    assert line(table, "`ensemble-logits`")[-3:] == ["+1.0", "75", ""]  # too dear


@pytest.mark.usefixtures("no_pictures")
def test_the_study_small(tmp_path: Path) -> None:
    """Its base on scikit-learn's digits: every method gives a row, and the page's tables are made of it."""
    small = ["set.cohort=digits-scanners", "set.unseen=cohort", "set.seeds=[0]", "set.training.rounds=1"]
    small += ["set.training.fine_tune.epochs=1", "set.model={name: small-cnn, options: {width: 4}}"]
    small += ["set.evaluation={batch_size: 16, images: 32, streams: [iid]}", "set.fusion_data.images=16"]
    study = bench("bench-unseen-digits", changes=small, out=tmp_path / "study")
    assert set(study.table["status"]) == {"done"}
    unseen_scores.keep(study.folder, tmp_path)
    seen = unseen_scores.read(tmp_path)
    methods = set(seen.rows["method"])
    assert {"node", "node-probe-8", "stream-norms-from-federated", "federated", "majority-class"} <= methods
    if not unseen_scores.broken(seen.rows):
        assert "| `node` |" in unseen_tables.development(seen)
    assert "`node`" in unseen_tables.choice(seen) or unseen_scores.broken(seen.rows)


@pytest.mark.parametrize("page", unseen_page.SAYING, ids=lambda page: page.name)
def test_what_is_said_of_unseen_hospitals_is_what_the_rows_say(page: Path) -> None:
    """Where this fails: `python -m benchmarks.studies.unseen_page` writes it anew."""
    said = kept(page.read_text(encoding="utf-8"))["unseen"]
    assert said == unseen_tables.summary(*(unseen_scores.read(RESULTS, parts) for parts in KINDS))


def test_the_sentence_says_better_or_worse_where_an_interval_does(seen: unseen_scores.Seen) -> None:
    """On i.i.d. streams the default has 3 points more than the federated model at every hospital."""
    text = unseen_tables.summary(seen, replace(seen, rows=seen.rows.replace("kf", "first-default")))
    assert "**So it is not surely better than any of them, nor surely worse**" not in text
    assert "−10.0 (−10.0 to −10.0) against the federated model" in text
    iid = replace(seen, rows=seen.rows[seen.rows["stream"] == "iid"])
    assert "surely better than mean merging, the federated model and the ensemble" in unseen_tables._verdict(
        iid
    )
    temporal = replace(seen, rows=seen.rows[seen.rows["stream"] == "temporal"])
    assert "surely worse than mean merging, the federated model and the ensemble" in unseen_tables._verdict(
        temporal
    )
