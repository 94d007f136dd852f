"""Tables of images: rows of a hospital, classes, findings, splits, patients; labels as the cohort's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fedmerge.data import SOURCES, CohortSpec, build_cohort
from fedmerge.data.checks.checks import remarks
from fedmerge.data.cohort.content import cohort_content
from fedmerge.data.cohort.spec import SiteSpec
from fedmerge.data.reading import Reading, ReadOptions, TableOptions
from fedmerge.data.sources.sources import load_source
from tests.facts import refused


def table(folder: Path, name: str = "all.csv", n: int = 40, **columns: list) -> pd.DataFrame:
    """n grey images of 8 px, image i of value i, and a row for each; two classes in turn."""
    for i in range(n):
        place = folder / "images" / f"{i:02}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(place)
    rows = {
        "path": [f"images/{i:02}.png" for i in range(n)],
        "label": [("ill", "well")[i % 2] for i in range(n)],
    }
    frame = pd.DataFrame(rows | columns)
    frame.to_csv(folder / name, index=False)
    return frame


def load(options: dict | None = None, site: str = "", name: str = "csv:all.csv", **more):
    return load_source(name, how=Reading(table=TableOptions(**options or {}), site=site), **more)


def values(raw) -> dict[str, list[int]]:
    return {
        n: s.images[:, 0, 0, 0].tolist() for n, s in zip(("train", "val", "test"), raw.splits, strict=True)
    }


def test_splits_of_the_table_are_kept_in_its_order(data_here: Path) -> None:
    table(data_here, split=["Training"] * 30 + ["valid"] * 4 + ["test"] * 6)
    raw = load()
    assert values(raw) == {"train": [*range(30)], "val": [*range(30, 34)], "test": [*range(34, 40)]}
    assert raw.class_names == ("ill", "well")
    assert raw.train.labels[:3].tolist() == [0, 1, 0]


def test_numbers_are_labels_and_parquet_and_other_commas_are_read_alike(data_here: Path) -> None:
    frame = table(data_here, label=[i % 3 for i in range(40)], split=["train"] * 30 + ["test"] * 10)
    frame.to_parquet(data_here / "all.parquet")
    frame.to_csv(data_here / "semi.csv", index=False, sep=";", encoding="utf-8-sig")
    raws = [load(), load(name="parquet:all.parquet"), load(name="csv:semi.csv")]
    assert [raw.class_names for raw in raws] == [None] * 3
    assert values(raws[0]) == values(raws[1]) == values(raws[2])
    assert len(raws[0].val) == 3  # an eighth of 10 of each class, 1.25
    assert "val" in raws[0].remarks[0]


def test_patients_stay_whole_and_the_parts_are_near_the_fractions(data_here: Path) -> None:
    """20 patients of two images: 70/10/20 of each class of 10 patients are 7, 1 and 2 patients."""
    patients = [f"p{i // 4}{'ab'[i % 2]}" for i in range(40)]
    table(data_here, patient=patients)
    raw = load()
    assert [len(split) for split in raw.splits] == [28, 4, 8]
    owner = [{patients[i] for i in part} for part in values(raw).values()]
    assert not owner[0] & owner[1]
    assert not (owner[0] | owner[1]) & owner[2]
    assert "20 patients" in raw.remarks[0]
    assert values(load()) == values(raw)


def test_too_few_patients_are_refused(data_here: Path) -> None:
    table(data_here, patient=[f"p{i % 9}" for i in range(40)])
    with refused(9, "patients", 10):
        load()


def test_hospitals_of_one_table_have_their_rows_and_their_patients_are_compared(data_here: Path) -> None:
    split = (["train"] * 12 + ["val"] * 4 + ["test"] * 4) * 2
    table(
        data_here, split=split, patient=[f"p{i // 2 % 19}" for i in range(40)], clinic=["a"] * 20 + ["b"] * 20
    )
    sites = [{"name": "a"}, {"name": "north", "table": {"value": "b"}, "unseen": True}]
    spec = CohortSpec(name="t", source="csv:all.csv", table={"site": "clinic"}, sites=sites)
    cohort = build_cohort(spec, 0)
    assert cohort["a"].train.images[:, 0, 0, 0].tolist() == [*range(12)]
    assert cohort["north"].test.images[:, 0, 0, 0].tolist() == [*range(36, 40)]
    said = " ".join(remarks(cohort).values())
    assert "patients of the unseen north" in said
    assert "1 (a 1)" in said  # p0 has images 0 and 1 at a, 38 and 39 at north


def test_one_source_is_divided_over_hospitals_by_patient(data_here: Path) -> None:
    patients = [f"p{i // 2}" for i in range(40)]
    split = ["train"] * 16 + ["val"] * 8 + ["test"] * 16
    table(data_here, patient=patients, label=[("ill", "well")[i // 2 % 2] for i in range(40)], split=split)
    sites = [{"name": "a"}, {"name": "b"}]
    minimum = {"samples": 1, "classes": 1}
    spec = CohortSpec(name="t", source="csv:all.csv", minimum=minimum, sites=sites)
    cohort = build_cohort(spec, 0)
    owners = [{patients[v] for v in site.train.images[:, 0, 0, 0].tolist()} for site in cohort.sites]
    assert not owners[0] & owners[1]
    assert sum(len(site.everything) for site in cohort.sites) == 40


def test_findings_are_columns_of_0_and_1(data_here: Path) -> None:
    table(
        data_here,
        mass=[1, 0] * 20,
        fluid=[1, 1, 0, 0] * 10,
        split=["train"] * 20 + ["val"] * 10 + ["test"] * 10,
    )
    raw = load({"findings": ("mass", "fluid")})
    assert raw.class_names == ("mass", "fluid")
    assert raw.train.labels.dtype == torch.uint8
    assert raw.train.labels[:4].tolist() == [[1, 1], [0, 1], [1, 0], [0, 0]]


def test_every_kind_of_fault_is_said_with_its_rows(data_here: Path) -> None:
    frame = table(data_here, split=["train"] * 38 + ["tset", "test"], mass=["1"] * 39 + ["-1"])
    frame.loc[3, "path"] = frame.loc[4, "path"] = "images/00.png"
    frame.loc[7, "path"] = " "
    frame.to_csv(data_here / "all.csv", index=False)
    with refused("tset", "row 40"):
        load()
    with refused("2 rows", "row 5, 6", "earlier row"):
        load()
    with refused("1 rows", "row 9"):
        load()
    with refused("mass", "-1", "row 41"):
        load({"findings": ("mass",)})


def test_columns_and_hospitals_that_are_not_there_are_named_with_the_nearest(data_here: Path) -> None:
    table(data_here, clinic=["north"] * 40)
    with refused("diagnosis", "label", "table:"):
        load({"label": "diagnosis"})
    with refused("nort", "clinic", "Did you mean 'north'?"):
        load({"site": "clinic"}, site="nort")


def test_files_that_are_not_there_are_refused_or_counted(data_here: Path) -> None:
    table(data_here)
    (data_here / "images" / "07.png").unlink()
    with refused("07.png", "not there"):
        load()
    raw = load(allow=True)
    assert sum(map(len, raw.splits)) == 39
    assert "1 of 40 rows" in raw.remarks[0]


def test_a_hospital_s_names_become_the_cohort_s(data_here: Path) -> None:
    table(data_here, "a.csv", label=["NORMAL", "PNEUMONIA"] * 20)
    table(data_here, "b.csv", label=["no_finding", "viral", "bacterial", "no_finding"] * 10)
    other = {"no_finding": "normal", "viral": "pneumonia", "bacterial": "pneumonia"}
    sites = [
        {"name": "a", "source": "csv:a.csv", "labels": {"NORMAL": "normal", "PNEUMONIA": "pneumonia"}},
        {"name": "b", "source": "csv:b.csv", "labels": other},
    ]
    cohort = build_cohort(CohortSpec(name="t", sites=sites), 0)
    assert cohort.class_names == ("normal", "pneumonia")
    whole = cohort["b"].everything
    for value, label in zip(whole.images[:, 0, 0, 0].tolist(), whole.labels.tolist(), strict=True):
        assert label == [0, 1, 1, 0][value % 4]
    sites[0]["labels"] = {"NROMAL": "normal"}
    with refused("site 'a'", "NROMAL", "Did you mean 'NORMAL'?"):
        build_cohort(CohortSpec(name="t", sites=sites), 0)
    sites[0].pop("labels")
    with refused("NORMAL", "labels:", "normal", "pneumonia"):
        build_cohort(CohortSpec(name="t", sites=sites, classes=("normal", "pneumonia")), 0)


def test_the_content_of_a_table_is_that_of_its_images_too(data_here: Path) -> None:
    table(data_here)
    spec = CohortSpec(name="t", source="csv:all.csv", sites=[{"name": "a"}])
    before = cohort_content(spec)
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(data_here / "images" / "00.png")
    assert cohort_content(spec) != before


@pytest.mark.parametrize(
    ("fit", "row"), [("crop", [1, 2]), ("pad", [0, 1, 2, 0]), ("stretch", None), (None, None)]
)
def test_the_aspect_ratio_is_kept_by_choice_and_never_lost_in_silence(data_here: Path, fit, row) -> None:
    """4 x 2 px, columns 0 1 2 3 (times 60): the middle is 1 2; padded, rows of black above and below."""
    table(data_here)
    for file in (data_here / "images").iterdir():
        Image.fromarray(np.tile(np.array([0, 60, 120, 180], np.uint8), (2, 1))).save(file)

    size = {"crop": 2, "pad": 4}.get(fit, 8) if fit in ("crop", "pad") else 8
    how = Reading(read=ReadOptions(fit=fit))
    raw = load_source("csv:all.csv", size=size, how=how)
    image = raw.train.images[0, 0]
    if fit == "crop":
        assert image.tolist() == [[60, 120], [60, 120]]
    elif fit == "pad":
        assert image.tolist() == [[0] * 4, [0, 60, 120, 180], [0, 60, 120, 180], [0] * 4]
    assert any("not square" in each and "40 of 40" in each for each in raw.remarks) == (fit is None)


def test_the_page_on_data_has_every_source_and_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for source in SOURCES:
        assert (
            f"`{source.form.replace('PATH', 'DIR')}`" in page
            or f"`{source.form.replace('PATH', 'FILE')}`" in page
        )
    for word, model in (("read", ReadOptions), ("table", TableOptions)):
        rows = set(re.findall(rf"^\| `(\w+)` \| `{word}` \|", page, re.MULTILINE))
        assert rows == set(model.model_fields)
    for word, spec in (("cohort", CohortSpec), ("site", SiteSpec)):
        rows = re.findall(rf"^\| (`.*`) \| [a-z, ]*{word}[a-z, ]* \|", page, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(spec.model_fields)


def test_a_table_whose_rows_are_not_those_of_its_header_is_refused(data_here: Path) -> None:
    """pandas would rename a doubled name, take a column for an index, and fill short rows."""
    table(data_here)
    rows = (data_here / "all.csv").read_text().splitlines()
    doubled = ["path,label,label", *(f"{row},ill" for row in rows[1:])]
    (data_here / "doubled.csv").write_text("\n".join(doubled))
    with refused("two columns", "label"):
        load(name="csv:doubled.csv")
    (data_here / "longer.csv").write_text("\n".join([rows[0], *(f"{row}," for row in rows[1:])]))
    with refused("longer.csv", "line 2"):
        load(name="csv:longer.csv")
    (data_here / "shorter.csv").write_text("\n".join([*rows[:6], rows[6].split(",")[0], *rows[7:]]))
    with refused("shorter.csv", "1 rows", "row 7"):
        load(name="csv:shorter.csv")
