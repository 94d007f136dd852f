"""Tables as people save them, and cohorts that are made of them: what was meant, or a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.data import CohortSpec, build_cohort
from fedmerge.data.checks.checks import remarks
from fedmerge.data.reading import Reading, TableOptions
from fedmerge.data.sources.new_cohort import new_cohort
from fedmerge.data.sources.sources import load_source
from tests.facts import refused

N = 20


@pytest.fixture
def rows(data_here: Path) -> list[list[str]]:
    """Twenty images, image i of value i, two classes in turn, with splits, as rows of texts."""
    for i in range(N):
        place = data_here / "images" / f"{i:02}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(place)
    split = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    return [[f"images/{i:02}.png", ("ill", "well")[i % 2], split[i]] for i in range(N)]


def write(
    folder: Path,
    rows: list[list[str]],
    header: str = "path,label,split",
    end: str = "\n",
    mark: str = ",",
    begin: bytes = b"",
) -> None:
    lines = [header.replace(",", mark), *(mark.join(row) for row in rows)]
    (folder / "all.csv").write_bytes(begin + (end.join(lines) + end).encode())


def load(**options: object):
    return load_source("csv:all.csv", how=Reading(table=TableOptions(**options)))


def as_meant(raw, labels: list[int] | None = None) -> None:
    assert raw.train.images[:, 0, 0, 0].tolist() == list(range(12))
    assert raw.train.labels.tolist() == (labels or [i % 2 for i in range(12)])


def test_a_byte_order_mark_semicolons_and_windows_line_ends(data_here: Path, rows) -> None:
    write(data_here, rows, end="\r\n", mark=";", begin=b"\xef\xbb\xbf")
    as_meant(load())


def test_quotes_around_everything_and_a_comma_in_a_name(data_here: Path, rows) -> None:
    write(data_here, [[f'"{path}"', f'"{label}, so"', split] for path, label, split in rows])
    assert load().class_names == ("ill, so", "well, so")


def test_a_table_in_utf_16_is_refused(data_here: Path, rows) -> None:
    write(data_here, rows)
    text = (data_here / "all.csv").read_text()
    (data_here / "all.csv").write_text(text, encoding="utf-16")
    with refused("all.csv", "UTF-8"):
        load()


def test_whole_paths_and_paths_that_leave_the_folder(data_here: Path, rows) -> None:
    whole = [[str(data_here / path), label, split] for path, label, split in rows]
    whole[0][0] = f"../{data_here.name}/images/00.png"
    write(data_here, whole)
    as_meant(load())


def test_paths_as_windows_writes_them(data_here: Path, rows) -> None:
    write(data_here, [[path.replace("/", "\\"), label, split] for path, label, split in rows])
    as_meant(load())


def test_one_file_under_two_spellings_is_a_file_twice(data_here: Path, rows) -> None:
    rows[3][0] = "images/../images/02.png"
    write(data_here, rows)
    with refused("an earlier row", "row 5"):
        load()


def test_a_path_that_is_a_folder_is_refused(data_here: Path, rows) -> None:
    rows[3][0] = "images"
    write(data_here, rows)
    with refused("images", "no file"):
        load()


def test_labels_that_are_whole_numbers_with_a_point(data_here: Path, rows) -> None:
    write(data_here, [[path, f"{i % 2}.0", split] for i, (path, _, split) in enumerate(rows)])
    as_meant(load())
    assert load().class_names is None


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "N/A", "null", "<NA>"])
def test_words_for_nothing_are_no_class(data_here: Path, rows, word: str) -> None:
    rows[3][1] = word
    write(data_here, rows)
    with refused("no class", "row 5"):
        load()


def test_words_for_nobody_are_no_patient(data_here: Path, rows) -> None:
    """Images 0, 2, 4 … are of nobody; each is a patient of its own, not all of one called nan."""
    people = ["nan" if i % 2 == 0 else f"p{i}" for i in range(N)]
    write(
        data_here, [[*row, each] for row, each in zip(rows, people, strict=True)], "path,label,split,patient"
    )
    groups = load().train.groups
    assert len(set(groups.tolist())) == 12


def test_words_for_nothing_are_no_finding_and_no_split(data_here: Path, rows) -> None:
    masses = [[path, "nan" if i == 2 else str(i % 2), split] for i, (path, _, split) in enumerate(rows)]
    write(data_here, masses, "path,mass,split")
    with refused("column 'mass'", "row 4"):
        load(findings=("mass",))
    rows[5][2] = "NaN"
    write(data_here, rows)
    with refused("column 'split'", "row 7"):
        load()


def test_classes_that_differ_in_case_alone_or_in_how_letters_are_encoded(data_here: Path, rows) -> None:
    rows[3][1] = "Well"
    write(data_here, rows)
    with refused("'Well'", "'well'"):
        load()
    rows[3][1] = "well"
    for i, row in enumerate(rows):
        row[1] = ("gr\u00fcn", "gru\u0308n", "rot")[i % 3]
    write(data_here, rows)
    assert load().class_names == ("gr\u00fcn", "rot")


def test_uncertain_findings_are_refused_with_their_rows(data_here: Path, rows) -> None:
    write(
        data_here,
        [[path, str(i % 3 - 1), split] for i, (path, _, split) in enumerate(rows)],
        "path,mass,split",
    )
    with refused("column 'mass'", "-1", "row 2"):
        load(findings=("mass",))


def test_empty_lines_are_none_and_a_table_of_its_header_alone_has_no_rows(data_here: Path, rows) -> None:
    write(data_here, rows, end="\n\n")
    as_meant(load())
    write(data_here, [])
    with refused("no rows"):
        load()


def test_two_hospitals_that_share_patients_are_said_where_one_is_unseen(data_here: Path, rows) -> None:
    people = [f"p{i % 5}" for i in range(N)]
    sites = [("north", "coast")[i % 2] for i in range(N)]
    more = [[*row, *each] for row, *each in zip(rows, people, sites, strict=True)]
    write(data_here, more, "path,label,split,patient,clinic")
    table = {"site": "clinic"}
    spec = CohortSpec.model_validate(
        {"name": "c", "source": "csv:all.csv", "table": table, "label_skew": None, "classes": ["ill", "well"],
         "minimum": {"samples": 1, "classes": 1},
         "sites": [{"name": "north"}, {"name": "coast", "unseen": True}]}
    )  # fmt: skip
    said = remarks(build_cohort(spec, 0))
    assert "5 (north 5)" in said["patients coast"]


def test_a_parquet_table_of_other_types(data_here: Path, rows) -> None:
    frame = pd.DataFrame(rows, columns=["path", "label", "split"])
    frame["label"] = [float(i % 2) for i in range(N)]
    frame["split"] = frame["split"].astype("category")
    frame["patient"] = pd.array([None if i % 2 else i for i in range(N)], dtype="Int64")
    frame.to_parquet(data_here / "all.parquet")
    raw = load_source("parquet:all.parquet")
    as_meant(raw)
    assert len(set(raw.train.groups.tolist())) == 12


def test_hospitals_whose_names_become_one_are_told_apart(data_here: Path, rows) -> None:
    sites = ["St. Anna", "St. Anna", "st anna", "\u00c4rzte"]
    write(data_here, [[*row, sites[i % 4]] for i, row in enumerate(rows)], "path,label,split,clinic")
    made = new_cohort({"all": data_here / "all.csv"}, (), None, {"site": "clinic"})
    names = [site["name"] for site in made["sites"]]
    assert len(set(names)) == 3
    assert {site["table"]["value"] for site in made["sites"]} == set(sites)
    CohortSpec.model_validate({"name": "c"} | made)


def test_rows_without_a_hospital_are_refused_with_their_number(data_here: Path, rows) -> None:
    sites = ["north", "coast", ""]
    write(data_here, [[*row, sites[i % 3]] for i, row in enumerate(rows)], "path,label,split,clinic")
    with refused("column 'clinic'", "6 rows", "row 4"):
        new_cohort({"all": data_here / "all.csv"}, (), None, {"site": "clinic"})


def test_columns_that_are_not_there_are_named(data_here: Path, rows) -> None:
    write(data_here, rows)
    with refused("'lable'", "label"):
        new_cohort({"all": data_here / "all.csv"}, (), None, {"label": "lable"})


def test_a_new_cohort_of_a_folder_whose_names_are_no_text(
    tmp_path: Path, data_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are no UTF-8 in a file's name: read, left out or named, and never a traceback."""
    for name in ("ill", "well"):
        (data_here / "clinic" / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(data_here / "clinic" / name / f"{i}.png")
    raw = bytes(data_here / "clinic" / "ill") + b"/\xff\xfe.png"
    with open(raw, "wb") as file:
        file.write((data_here / "clinic" / "ill" / "3.png").read_bytes())
    with open(bytes(data_here / "clinic" / "ill") + b"/\xff.zip", "wb") as file:
        file.write(b"PK")
    monkeypatch.chdir(tmp_path)  # the page goes into the working directory
    spec = tmp_path / "mine.yaml"
    spec.write_text("title: T\nsites:\n  - {name: clinic, source: 'folder:clinic'}\n")
    done = CliRunner().invoke(app, ["sites", "check", str(spec), "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert '"clinic"' in done.output


def test_what_no_path_can_be_is_refused_with_its_rows(data_here: Path, rows) -> None:
    """Names that are too long, of unknown users, or with a zero byte cannot even be looked for."""
    for number, text in ((3, "a" * 300 + ".png"), (5, "~nobody-of-this-name/a.png")):
        rows[number][0] = text
    write(data_here, rows)
    with refused("2 rows", "no path", "'path'", "row 5, 7"):
        load_source("csv:all.csv")


def test_a_file_in_a_folder_that_cannot_be_searched_is_not_there(
    data_here: Path, rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(data_here, rows)
    plain = Path.is_file

    def denied(path: Path) -> bool:
        if path.name == "03.png":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(Path, "is_file", denied)
    with refused("03.png", "not there"):
        load_source("csv:all.csv")


@pytest.mark.parametrize(("labels", "kind"), [([b"ill", b"well"], "bytes"), ([[0], [1]], "lists")])
def test_a_parquet_column_of_no_texts_is_refused_where_it_is_used(
    data_here: Path, rows, labels, kind
) -> None:
    """As text they would be classes "b'ill'" and "[0]"; in a column that nobody asks for they may be."""
    table = pd.DataFrame(rows, columns=["path", "label", "split"])
    table.assign(label=labels * 10).to_parquet(data_here / "table.parquet")
    with refused("'label'", kind, "numbers"):
        load_source("parquet:table.parquet")
    table.assign(other=labels * 10).to_parquet(data_here / "table.parquet")
    assert load_source("parquet:table.parquet").class_names == ("ill", "well")


def test_a_source_of_another_kind_says_which_it_is(data_here: Path, rows) -> None:
    write(data_here, rows)
    with refused("csv:all.csv"):
        load_source("folder:all.csv")
    with refused("00.png", "folder that it is in"):
        load_source("dicom:images/00.png")
