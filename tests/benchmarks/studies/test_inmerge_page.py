"""The page of the in-model merging studies, from three made-up ones whose numbers are known by hand."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from facts import refused

from benchmarks import ROOT, pages
from benchmarks.studies import inmerge_page

WriteStudy = Callable[[Path, str, dict[str, Any], list[dict[str, Any]]], Path]
PAGE = ROOT / "docs" / "studies" / "in-model-merging.md"
SCORES = ("accuracy", "balanced_accuracy", "auroc", "ece", "brier")
LEVELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "merge": {"training.fine_tune.inmerge": {"tau": 0.3}},
    "random": {"training.fine_tune.inmerge": {"tau": 0.3, "partner": "random"}},
    "decay": {"training.fine_tune.weight_decay": 0.01},
}
GAIN = {"plain": 0.0, "merge": 0.02, "random": -0.01, "decay": 0.0}


def save(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def save_study(
    write: WriteStudy, folder: Path, name: str, data: tuple[str, ...], methods: tuple[str, ...]
) -> Path:
    """A finished study of one hospital and three seeds, whose scores are the same for all data and methods.

    Clean scores are 0.7 + 0.05 seed + GAIN; under noise of severity 1 and 2 they are 0.6 for all but
    "merge", which has 0.7. With seed s, 10 (s + 1) filters are merged in 5 steps where a level merges.
    """
    rows = []
    for place, level, seed, method in itertools.product(data, LEVELS, range(3), methods):
        trained = f"{place}-{level}-{seed}"
        merges = 10 * (seed + 1) if level in ("merge", "random") else 0
        past = {"phase": "fine-tune", "site": "clinic", "steps": 5, "merges": merges}
        save(folder / "jobs" / trained / "job.json", {"needs": [], "history": [past]})
        job = f"{trained}-{method}"
        save(folder / "jobs" / job / "job.json", {"needs": [trained], "history": []})
        row = {"study": name, "job": job, "status": "done", "cohort": place, "training": level}
        row |= {"model": "small-cnn", "seed": seed, "site": "clinic", "stream": "iid", "method": method}
        row |= {"kind": "alone" if method == "alone:clinic" else "fusion", "device": "cpu"}
        row |= {"versions": json.dumps({"torch": "2.15"})}
        noisy = 0.7 if level == "merge" else 0.6
        for severity, score in enumerate((0.7 + 0.05 * seed + GAIN[level], noisy, noisy)):
            shift = {"shift": "noise" if severity else "none", "severity": severity}
            rows.append(row | shift | dict.fromkeys(SCORES, score))
    axes = {"cohort": {place: {} for place in data}, "training": LEVELS}
    return write(
        folder, name, {"axes": axes, "compare": "training", "reference": "plain", "metric": "auroc"}, rows
    )


@pytest.fixture(scope="module")
def folders(write_study: WriteStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A study of two data sets, one of a single setting, and one of two methods."""
    place = tmp_path_factory.mktemp("studies")
    alone = ("alone:clinic",)
    return [
        save_study(write_study, place / "main", "tiny", ("chest", "breast"), alone),
        save_study(write_study, place / "grid", "tiny-grid", ("breast",), alone),
        save_study(write_study, place / "federation", "tiny-federation", ("chest",), ("mean", "greedy")),
    ]


@pytest.fixture(scope="module")
def seen(folders: list[Path]) -> Any:
    return inmerge_page.tables.look_at(folders[0])


def test_the_answer_counts_strata_and_gives_the_mean_difference(seen: Any) -> None:
    """The paired difference is 0.02 everywhere, so its interval is that one value."""
    answer = inmerge_page.tables.answer(seen)
    assert "raised AUROC above that of plain fine-tuning beyond its 95 % interval at threshold 0.3." in answer
    assert (
        "threshold 0.3 gains in 2 and loses in 0 of 2 and changes the mean by +2.00 (+2.00 to +2.00)"
        in answer
    )


def test_the_tables_hold_means_differences_and_wins(seen: Any) -> None:
    """Means of 0.7, 0.75 and 0.8 plus the gain; two data sets and three seeds make six pairs."""
    lines = inmerge_page.tables.overall_table(seen).splitlines()
    assert lines[2].startswith("| merge | 0.770 (")
    assert lines[2].endswith("| **+2.00 (+2.00 to +2.00)** | 6 / 0 / 0 |")
    assert lines[5].endswith("| **−1.00 (−1.00 to −1.00)** | 0 / 6 / 0 |")
    strata = inmerge_page.tables.strata_table(seen, ["merge", "decay"]).splitlines()
    assert strata[0] == "| cohort | plain | merge | decay |"
    assert [line.split(" | ")[0] for line in strata[2:]] == ["| chest", "| breast"]
    assert strata[2].endswith("| **+2.00 (+2.00 to +2.00)** | 0.00 (0.00 to 0.00) |")


def test_constant_classifiers_are_marked_where_they_are(seen: Any) -> None:
    """Say that plain gives one class with seed 0, without shift: 2 data sets, 2 of 6 measurements."""
    table = seen.found.table
    one = (table["training"] == "plain") & (table["seed"] == 0) & (table["severity"] == 0)
    known = seen._replace(found=replace(seen.found, table=table.assign(one_class=one, auroc_classes=2)))
    overall = inmerge_page.tables.overall_table(known)
    plain = next(row for row in overall.splitlines() if row.startswith("| plain |"))
    assert plain.split(" | ")[1].endswith("† 2/6")
    assert "| **+2.00 (+2.00 to +2.00)** † | 6 / 0 / 0 |" in overall
    assert overall.endswith("In this table 2 of 24 measurements; in differences: plain 2/6.")
    assert "† 1/3" in inmerge_page.tables.strata_table(known, ["merge"]).splitlines()[2]
    shift = inmerge_page.tables.shift_table(known).replace("\u00a0", " ")
    assert "| plain | 25.0 % † 2/6 | 40.0 % |" in shift
    told = "One class for every image, without shift: `plain` in 2 of 6 and `merge` in 0 of 6 measurements."
    assert told in inmerge_page.tables.answer(known)
    assert "under shift" not in inmerge_page.tables.answer(known)


def test_random_partners_are_the_control_of_the_same_settings(seen: Any) -> None:
    assert inmerge_page.tables.control(seen).startswith("merge minus random: +3.00 (+3.00 to +3.00) points.")


def test_the_error_under_shift_is_relative_to_the_reference(seen: Any) -> None:
    """Errors of 0.3 against 0.4 at both severities: three quarters."""
    first = inmerge_page.tables.shift_table(seen).splitlines()[2].replace("\u00a0", " ")
    assert first == "| merge | 23.0 % | 30.0 % | 75.0 % (75.0 % to 75.0 %) |"


def test_merges_are_counted_once_a_fine_tuning(folders: list[Path], seen: Any) -> None:
    """10, 20 and 30 filters in 5 steps each: 20 on average, 4 a step; two methods share a fine-tuning."""
    assert inmerge_page.tables.merges_table(seen).splitlines()[2] == "| chest | 20 (4.00) | 20 (4.00) |"
    federation = inmerge_page.tables.look_at(folders[2])
    assert len(federation.merges) == len(LEVELS) * 3
    assert inmerge_page.tables.merges_table(federation).splitlines()[2] == "| 20 (4.00) | 20 (4.00) |"


def test_blocks_are_replaced_and_nothing_else() -> None:
    page = "before\n<!-- begin a -->\nold\n<!-- end a -->\nafter\n"
    new = pages.fill(page, {"a": r"new \1"})
    assert new == "before\n<!-- begin a -->\nnew \\1\n<!-- end a -->\nafter\n"
    assert pages.fill(new, {"a": r"new \1"}) == new


@pytest.mark.parametrize("blocks", [{}, {"a": "", "b": ""}])
def test_a_block_without_its_place_is_an_error(blocks: dict[str, str]) -> None:
    with refused("numbers", "block", "a"):
        pages.fill("<!-- begin a -->\n<!-- end a -->", blocks)


def test_it_fills_the_page_of_the_repository(folders: list[Path], tmp_path: Path) -> None:
    """Every figure is small and on the page; the scores have a row a variant, seed and severity."""
    shutil.copy(PAGE, tmp_path)
    inmerge_page.main([*map(str, folders), "--out", str(tmp_path), "--scores", str(tmp_path / "scores")])
    page = (tmp_path / PAGE.name).read_text()
    assert "+2.00 (+2.00 to +2.00)" in page
    figures = sorted((tmp_path / PAGE.stem).glob("*.png"))
    assert len(figures) == 7
    for figure in figures:
        assert f"]({PAGE.stem}/{figure.name})" in page
        assert figure.stat().st_size < 80_000
    scores = pd.read_csv(tmp_path / "scores" / "tiny.csv")
    assert scores.columns.tolist() == ["cohort", "training", "seed", "shift", "severity", *SCORES]
    assert len(scores) == 2 * len(LEVELS) * 3 * 3
    numbers = json.loads((tmp_path / PAGE.stem / "numbers.json").read_text())
    assert numbers["tiny"][0]["difference"] == pytest.approx(0.02)
