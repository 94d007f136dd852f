"""The page on round algorithms: numbers by hand, and its studies, small, from training to tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fedmerge as fm
from benchmarks.studies import rounds_page
from fedmerge.schema.validation import load_yaml

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"


def made_up() -> pd.DataFrame:
    """Two hospitals, three seeds: SCAFFOLD is 4 points above FedAvg-SGD, which is 6 below FedAvg."""
    score = {"FedAvg": 0.60, "FedAvg-SGD": 0.54, "SCAFFOLD": 0.58, "pooled": 0.7}
    rows = []
    for name, value in score.items():
        for seed in range(3):
            for site in ("tecom", "barcelona"):
                for method in rounds_page.METHODS if name != "pooled" else ["pooled"]:
                    rows.append(
                        {
                            "cohort": "wbc4-small",
                            "algorithm": name,
                            "seed": seed,
                            "site": site,
                            "method": method,
                            "balanced_accuracy": value + 0.01 * seed,
                            "auroc": 0.8,
                            "validation": value + 0.2,
                            "constant": name == "FedAvg-SGD" and seed == 0,
                        }
                    )
    return pd.DataFrame(rows)


def row_of(table: str, name: str) -> list[str]:
    return next(line.strip("| ").split(" | ") for line in table.splitlines() if f"| {name} |" in line)


def test_differences_are_from_fedavg_with_the_same_optimizer() -> None:
    table = rounds_page.overall_table(made_up())
    assert row_of(table, "SCAFFOLD")[1:] == ["**+4.00 (+4.00 to +4.00)**"] * 5
    assert row_of(table, "FedAvg-SGD")[1:] == ["**−6.00 (−6.00 to −6.00)**"] * 5
    assert "pooled" not in table


def test_the_answer_names_what_is_sure_and_says_where_nothing_is() -> None:
    said = rounds_page.answer(made_up()).splitlines()
    assert said[0].startswith("Over 3 seeds and 2 unseen hospitals")
    assert "SCAFFOLD +4.00 (+4.00 to +4.00)" in said[2]
    one = made_up()
    said = [rounds_page.answer(one[(one["seed"] == 0) & (one["site"] == "tecom")])]
    assert "`tecom`" in said[0]
    assert "no interval" in said[0]


def test_constant_classifiers_are_marked_and_pooled_stands_beside() -> None:
    """0.54, 0.55 and 0.56; one class with seed 0 at both hospitals."""
    table = rounds_page.unseen_table(made_up())
    assert row_of(table, "FedAvg-SGD")[2] == "55.0 † 2/6"
    assert row_of(table, "pooled")[2] == "71.0"
    said = rounds_page.sizes(made_up()).replace("\u00a0", " ")
    assert said.startswith("6 federations of each algorithm")


def test_the_pool_s_table_has_validation_and_angles() -> None:
    drift = pd.DataFrame(
        [
            {"cohort": "wbc4-small", "algorithm": "FedAvg", "seed": s, "site": "tecom"}
            | {"encoder_angle": 1.0, "encoder_retained": 1.0, "head_angle": 20.0 + s, "head_retained": 0.9}
            for s in range(3)
        ]
    )
    row = row_of(rounds_page.pool_table(made_up(), drift), "FedAvg")
    assert row[2:] == ["80.0", "", "80.0", "80.0", "1.0", "21.0", "90"]


COHORT = {
    "name": "wbc4-small", "source": "digits", "size": 8,
    "sites": [
        {"name": "tecom", "limit": 40}, {"name": "north", "limit": 40}, {"name": "south", "limit": 40}
    ],
}  # fmt: skip
SMALL: dict[str, Any] = {"model": {"name": "small-cnn", "options": {"width": 4}}, "seeds": [0]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The shipped studies on digits of three hospitals, one of them unseen, two rounds of a small network."""
    work, made = tmp_path_factory.mktemp("rounds"), []
    base = load_yaml(CONFIGS / "round-algorithms.yaml") | SMALL | {"cohort": COHORT}
    base["training"] |= {"rounds": 2}
    base["evaluation"] |= {"images": 40}
    for name in ("bench-round-algorithms", "bench-round-algorithms-others"):
        study = load_yaml(CONFIGS / f"{name}.yaml")
        algorithms = dict(study["axes"]["algorithm"])
        algorithms.pop("InMerge", None)  # its first layers are left alone, and there are few here
        study |= {"base": base, "axes": {"algorithm": algorithms}}
        fm.bench(study, out=work / name)
        made.append(work / name)
    return made


def test_a_small_version_goes_from_training_to_the_page(folders: list[Path], tmp_path: Path) -> None:
    """Every algorithm has a row in each table; the kept rows give the same page again."""
    page = tmp_path / "round-algorithms.md"
    page.write_text((ROOT / "docs" / "studies" / "round-algorithms.md").read_text(encoding="utf-8"))
    places = ["--out", str(tmp_path), "--scores", str(tmp_path)]
    rounds_page.main([*map(str, folders), *places])
    rows, text = pd.read_csv(tmp_path / "round-algorithms.csv"), page.read_text(encoding="utf-8")
    names = {name for c in folders for name in load_yaml(c / "study.yaml")["axes"]["algorithm"]}
    assert names | {"pooled", "majority-class"} == set(rows["algorithm"])
    assert not rows.duplicated([*rounds_page.KEYS, "method"]).any()
    drift = pd.read_csv(tmp_path / "round-algorithms-drift.csv")
    assert set(drift["algorithm"]) == names
    assert (drift["head_angle"] > 0).all()
    for name in names:
        assert text.count(f"| {name} |") >= 2, name
    rounds_page.main(places)
    assert page.read_text(encoding="utf-8") == text
