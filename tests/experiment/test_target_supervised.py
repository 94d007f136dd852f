"""The best source as the target's labels tell: whose rows it has, and what it never is."""

import math

import pytest

from fedmerge.experiment.target_supervised import BEST_SOURCE, ORACLE, best_source
from fedmerge.reports.leaderboard_tables import board_table
from fedmerge.reports.leaderboards import leaderboards
from fedmerge.reports.study_summary import study_answer


def row(name, accuracy, stream="iid", severity=0):
    return {
        "method": f"alone:{name}", "kind": "alone", "stream": stream, "severity": severity,
        "accuracy": accuracy, "validation": 0.5,
    }  # fmt: skip


def test_the_best_on_the_images_as_they_are_for_every_look():
    """north has 0.6 on both clean streams; south 0.7 and 0.4, mean 0.55, and 0.9 under a shift."""
    rows = [row("south", 0.7), row("south", 0.4, "drift"), row("south", 0.9, severity=5)]
    rows += [row("north", 0.6), row("north", 0.6, "drift"), row("north", 0.1, severity=5)]
    bins = [{"method": f"alone:{name}", "kind": "alone", "bin": 0} for name in ("south", "north")]
    own, binned = best_source(rows, bins)
    assert [entry["accuracy"] for entry in own] == [0.6, 0.6, 0.1]
    assert {(entry["method"], entry["kind"]) for entry in (*own, *binned)} == {(BEST_SOURCE, ORACLE)}
    assert all(math.isnan(entry["validation"]) for entry in own)
    assert len(binned) == 1
    assert {entry["kind"] for entry in rows} == {"alone"}  # what was given stays


def test_a_failed_job_has_no_best():
    failed = {"stream": "", "shift": "none", "severity": 0, "n": 0}
    assert best_source([failed], []) == ([failed], [])


KINDS = {"mean": "fusion", "greedy": "fusion", BEST_SOURCE: ORACLE}
SCORES = {"mean": 0.7, "greedy": 0.75, BEST_SOURCE: 0.99}


def test_it_is_shown_and_never_best(make_study):
    found = leaderboards(make_study(SCORES, methods=KINDS))
    table = board_table(found, found.overall, "Leaderboard")
    groups = {group.heading: group.lines for group in table.groups}
    (heading,) = [name for name in groups if name.startswith("Oracle")]
    (line,) = groups[heading]
    assert line.method == BEST_SOURCE
    assert not any(cell.best for cell in line.cells)
    assert BEST_SOURCE not in study_answer(found)


def test_it_is_not_best_where_nothing_else_was_tried(make_study):
    kinds = {"pooled": "pooled", BEST_SOURCE: ORACLE}
    found = leaderboards(make_study({"pooled": 0.7, BEST_SOURCE: 0.9}, methods=kinds, reference=None))
    assert list(found.ranked(found.overall)["level"]) == ["pooled"]


@pytest.mark.parametrize("compare", ["training"])
def test_where_an_axis_is_compared_it_has_no_part(make_study, compare):
    levels = {"plain": 0.7, "inmerge": 0.72}
    found = leaderboards(
        make_study(levels, compare=compare, reference="plain", axes={compare: tuple(levels)}, methods=KINDS)
    )
    assert set(found.table["method"]) == {"mean", "greedy"}
