"""The page on test-time methods, from made-up studies whose numbers are known by hand."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from facts import refused

from benchmarks import ROOT
from benchmarks.studies import one_class, testtime_page

WriteStudy = Callable[[Path, str, dict[str, Any], list[dict[str, Any]]], Path]
PAGE = ROOT / "docs" / "studies" / "test-time-first.md"
STREAMS = ("iid", "dirichlet-0.5", "dirichlet-0.05", "temporal")
GAINS = {"mean": 0.0, "ensemble-logits": 0.02, "entropy-adaptive": 0.05, "stream-adaptive": 0.1}
"""Above mean merging, which has 0.5, in every cell but those that ``accuracy`` names."""
SPEED = {
    "device": "cpu, 1 threads",
    "torch": "2.15",
    "cases": [
        {
            "network": "small-cnn",
            "pixels": 28,
            "models": 4,
            "node_over_bare_all": {"entropy-adaptive": 1.02},
            "over_one_pass": {"12 images": 1.8},
        }
    ],
}


def accuracy(method: str, site: str, stream: str, seed: int) -> float:
    """Mean merging has 0.5 + 0.01 seed; the node loses 0.04 on temporal streams at b."""
    base = 0.5 + 0.01 * seed
    if method.startswith("stream-adaptive"):
        less = 0.03 if method.endswith(("consensus", "12-images")) else 0.0
        return base - 0.04 if (site, stream) == ("b", "temporal") else base + 0.1 - less
    return base + GAINS.get(method, 0.0)


def save_study(write: WriteStudy, folder: Path, name: str, labels: list[str], **columns: Any) -> Path:
    """A study of two sites, four streams, three seeds; ``alone`` stands beside the methods."""
    rows = []
    sites = columns.pop("sites", ("a", "b"))
    for label, site, stream, seed in itertools.product([*labels, "alone:a"], sites, STREAMS, range(3)):
        row = {"job": f"{label}-{site}-{seed}".replace(":", "_"), "status": "done", "reason": ""}
        row |= {"cohort": name, "model": "cnn", "seed": seed, "site": site, "stream": stream, "method": label}
        score = accuracy(label, site, stream, seed)
        row |= {"kind": "alone" if ":" in label else "fusion", "shift": "none", "severity": 0, "n": 64}
        row |= dict.fromkeys(("accuracy", "balanced_accuracy", "auroc"), score) | {"ece": 0.1}
        row |= {
            "forward_passes": 1.75 if "probe" in label else 4.0,
            "backward_passes": float(label == "tent"),
        }
        rows.append(row | {"device": "cpu", "versions": '{"torch": "2.15"}'} | columns)
    axes = {key: {value: {}} for key, value in columns.items()}
    return write(folder, f"tiny-{name}", {"axes": axes} if axes else {}, rows)


@pytest.fixture(scope="module")
def folders(write_study: WriteStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four studies and the mixed one; consensus is another choice, tent is not in every study."""
    place = tmp_path_factory.mktemp("studies")
    common = [*GAINS, "stream-adaptive-tuned"]
    more = {
        "pacs": ["stream-adaptive-probe-12-images"],
        "digits": ["stream-adaptive-consensus", "stream-adaptive-probe-12-images", "tent"],
        "pneumonia": ["stream-adaptive-consensus"],
        "wbc": ["stream-adaptive-consensus"],
    }
    found = {
        name: save_study(write_study, place / name, name, common + extra) for name, extra in more.items()
    }
    return found | {
        "mixed": save_study(write_study, place / "mixed", "mixed", common, sites=("mixed",), data="digits")
    }


@pytest.fixture(scope="module")
def seen(folders: dict[str, Path]) -> Any:
    return testtime_page.look_at({name: folders[name] for name in testtime_page.BENCHES})


def line(table: str, start: str) -> list[str]:
    """The cells of the row that begins so."""
    (found,) = [row for row in table.splitlines() if row.startswith(f"| {start} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_differences_are_paired_and_losing_cells_are_counted(seen: Any) -> None:
    """Eight targets; at four of them the temporal cell is 4 points below, the other 28 cells 10 above."""
    cells = line(testtime_page.tables.overall_table(seen), "stream-adaptive")
    assert cells[2:5] == ["**+10.00 (+10.00 to +10.00)**"] * 3
    assert cells[5].startswith("+3.00 (")
    assert cells[6] == "4 of 32"
    assert cells[7].startswith("**+6.25 (")
    assert cells[8] == "4"


def test_only_methods_of_all_studies_are_compared_over_all(seen: Any) -> None:
    table = testtime_page.tables.overall_table(seen)
    assert "tent" not in table
    assert "consensus" not in table
    assert line(table, "stream-adaptive-tuned")[6] == "4 of 32"
    assert line(testtime_page.tables.bench_table(seen, "digits"), "tent")[-1] == "4 + 1"


def test_a_choice_stands_against_the_recommended_node(seen: Any) -> None:
    """Consensus has 3 points less, but for the temporal cells at b, where it is level: 1.5 there.

    So does the paper's node: 5 points above mean merging, where ours is 10 above, and 4 below at b.
    """
    table = testtime_page.tables.choices_table(seen, ("digits", "wbc"), probes=False)
    assert line(table, "stream-adaptive-consensus")[3:7] == ["−3.00", "−3.00", "−3.00", "−1.50"]
    assert line(table, "entropy-adaptive")[3:7] == ["−5.00", "−5.00", "−5.00", "+2.00"]
    probes = testtime_page.tables.choices_table(seen, ("pacs", "digits"), probes=True)
    assert line(probes, "stream-adaptive-probe-12-images")[-1] == "1.75"
    assert "consensus" not in probes


def test_every_target_has_a_line(seen: Any) -> None:
    cells = line(testtime_page.tables.targets_table(seen), "pacs b")
    assert cells == ["pacs b", "51.0", "+2.0", "+5.0", "+6.5", "+6.5"]


def test_the_answer_says_where_it_loses(seen: Any) -> None:
    text = testtime_page.tables.answer(seen)
    assert "in 4 of 32 cells of target and stream, at worst by −4.0" in text
    assert "`entropy-adaptive`** minus mean merging, in points: +5.00 (+5.00 to +5.00)" in text
    assert text.count("The mean of the 4 data sets, each a site: +5.00 (+5.00 to +5.00).") == 1


def test_a_reference_that_is_a_constant_classifier_is_told(seen: Any) -> None:
    """With two classes mean merging's 0.5 of seed 0 is one class for all: 8 targets, 4 streams."""
    rows = seen.rows.assign(auroc_classes=2)
    known = seen._replace(rows=rows.assign(one_class=one_class.one_class(rows)))
    told = "mean merging in 32 of 96, the ensemble in 0 of 96 and `stream-adaptive` in 0 of 96 measurements."
    assert f"One class for every image: {told} Being above" in testtime_page.tables.answer(known)
    table = testtime_page.tables.overall_table(known)
    assert line(table, "mean")[1] == "51.0 † 32/96"
    assert line(table, "stream-adaptive")[2] == "**+10.00 (+10.00 to +10.00)** †"
    assert line(table, "stream-adaptive")[7].endswith("**")  # against the ensemble, which is none
    assert table.endswith("in differences: mean 32/96, ensemble-logits 0/96.")
    assert line(testtime_page.tables.bench_table(known, "digits"), "mean")[1] == "51.0 † 2/6"
    assert line(testtime_page.tables.targets_table(known), "pacs b")[1:3] == ["51.0 † 4/12", "+2.0 †"]
    words = "one class for every image: mean in 32 of 96 measurements"
    made, caption = testtime_page.differences(known)
    assert caption.title.endswith(words)
    assert made.legends[0].get_title().get_text().endswith(words)


def test_data_sets_are_sites_when_they_are_asked_for(seen: Any) -> None:
    """Four data sets of two targets and four streams: one site each, eight streams, the same mean."""
    rows = testtime_page.tables.data_as_sites(seen).rows
    assert set(rows["site"]) == set(testtime_page.BENCHES)
    assert rows.groupby("site")["stream"].nunique().tolist() == [8] * 4
    board = testtime_page.board(testtime_page.tables.data_as_sites(seen), "mean")
    assert board.loc["stream-adaptive", "difference"] == pytest.approx(0.0825)  # 28 of 32 cells 0.1, 4 -0.04
    assert board.loc["stream-adaptive", "sites"] == 4


def test_the_whole_page_is_filled(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(PAGE, tmp_path / PAGE.name)
    (tmp_path / "speed.json").write_text(json.dumps(SPEED))
    out = ["--out", str(tmp_path), "--scores", str(tmp_path / "csv"), "--speed", str(tmp_path / "speed.json")]
    testtime_page.main([*map(str, folders.values()), *out])
    page = (tmp_path / PAGE.name).read_text()
    assert "| node, entropy-adaptive: against 5 bare passes | 1.02 |" in page
    assert {path.name for path in (tmp_path / "test-time-first").iterdir()} == {
        "differences.png",
        "frontier.png",
    }
    assert len(pd.read_csv(tmp_path / "csv" / "tiny-digits.csv")) == 9 * 2 * 4 * 3


def test_a_study_without_mean_merging_is_a_sentence(write_study: WriteStudy, tmp_path: Path) -> None:
    save_study(write_study, tmp_path / "none", "none", ["ensemble-logits"])
    with refused("mean", "ensemble-logits", "lacks", kind=Exception):
        testtime_page.look_at({"none": tmp_path / "none"})
