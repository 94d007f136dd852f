from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmerge.data import Arrays, CohortSpec, SiteSpec, build_cohort, cohort_names, read_cohort
from fedmerge.schema.validation import validate
from tests.facts import refused

Writer = Callable[..., Path]


def numbered(n: int = 200, n_classes: int = 4, side: int = 8, **more: Any) -> Arrays:
    """n images whose first two pixels spell their number in base 256, classes in turn."""
    number = np.arange(n)
    images = np.zeros((n, side, side), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = number // 256, number % 256
    return Arrays(images, number % n_classes, **more)


def spec(**fields: Any) -> CohortSpec:
    return validate(CohortSpec, {"name": "test", **fields}, "test.yaml")


def sites(*names: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"name": name, **fields} for name in names]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sites": sites("a", "a", source="digits")}, ("'a'", "named")),
        ({"sites": sites("a")}, ("'a'", "site", "test.yaml", "source")),
        ({"sites": sites("a", source="digits", unseen=True)}, ("least", "test.yaml", "train")),
        ({"sites": []}, ("sites", "test.yaml", "0 entries")),
        ({"sites": sites("a", source="digits", classes=[1, 1])}, (1, "listed")),
        ({"sites": sites("a", source="digits", classes=[-1])}, ("sites[0].classes[0]", "test.yaml")),
        ({"sites": sites("../a", source="digits")}, ("sites[0].name", "test.yaml")),
        ({"sites": sites("a", source="digit")}, ("sites[0].source", "digits")),
        (
            {"sites": sites("a", lable_skew=1)},
            ("sites[0].lable_skew", "label_skew"),
        ),
        (
            {"sites": sites("a", label_skew=0)},
            ("sites[0].label_skew", "given: 0"),
        ),
        ({"sites": sites("a", share=float("inf"))}, ("sites[0].share", "test.yaml")),
        ({"sites": sites("a", limit=0)}, ("sites[0].limit", "test.yaml")),
        (
            {"sites": sites("a", scanner=[{"kind": "blurr", "severity": 1}])},
            (0, "blur"),
        ),
        ({"sites": sites("a", scanner=[{"kind": "blur"}])}, ("sites[0].scanner[0].severity", "test.yaml")),
        ({"source": "digits", "sites": sites("a"), "channels": 2}, ("channels", 2, 1, 3)),
        (
            {"source": "digits", "sites": sites("a"), "label_skew": "disjiont"},
            ("label_skew", "test.yaml", "number"),
        ),
        (
            {"source": "digits", "sites": sites("a"), "classes": ["x", "x"]},
            ("listed", "test.yaml", "classes"),
        ),
        (
            {"source": "digits", "sites": sites("a"), "minimum": {"sample": 3}},
            ("samples", "test.yaml"),
        ),
        ({"source": "digits", "sites": sites("a"), "siez": 16}, ("siez", "size")),
    ],
)
def test_a_wrong_specification_is_a_sentence(fields: dict[str, Any], words: tuple[object, ...]) -> None:
    with refused(*words) as caught:
        spec(**fields)
    assert all(sentence.startswith("test.yaml: ") for sentence in caught.value.args)


YAML = "source: npz:set.npz\nsites:\n  - {name: north}\n"


def test_a_cohort_is_found_by_path_near_the_configuration_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("configs", "sites", "work/sites"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "configs" / "near.yaml").write_text(YAML)
    (tmp_path / "sites" / "beside.yaml").write_text("title: Ours\n" + YAML)
    (tmp_path / "work" / "sites" / "here.yaml").write_text("name: renamed\n" + YAML)
    monkeypatch.chdir(tmp_path / "work")
    near = tmp_path / "configs"
    assert read_cohort(near / "near.yaml").name == "near"
    with refused("near", "here"):
        read_cohort("near", near)  # a bare name never means the configuration beside it
    assert read_cohort("near.yaml", near).name == "near"
    assert read_cohort("beside", near).title == "Ours"
    assert read_cohort("here").name == "renamed"
    assert read_cohort("digits-scanners", near).name == "digits-scanners"
    assert {"beside", "here", "digits-scanners"} <= set(cohort_names(near))


def test_a_relative_source_may_lie_beside_the_yaml_file(
    write_npz: Writer, data_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz()
    (data_here / "ours.yaml").write_text(YAML)
    monkeypatch.setenv("FEDMERGE_DATA", str(data_here / "elsewhere"))
    cohort = build_cohort(read_cohort(data_here / "ours.yaml"), seed=0)
    assert len(cohort["north"].train) == 12


def test_an_unknown_cohort_names_the_nearest_and_all() -> None:
    with refused("digits-scanners", "wbc-labs", "digit-scanners"):
        read_cohort("digit-scanners")
    with refused("nowhere/x.yaml", "breast"):
        read_cohort("nowhere/x.yaml")


def test_a_specification_in_python_can_hold_arrays() -> None:
    site = SiteSpec(name="a", source=numbered())
    made = CohortSpec(name="mine", sites=(site,))
    assert len(build_cohort(made, 0)["a"].everything) == 200
    assert made.model_dump(mode="json")["sites"][0]["source"] == str(numbered())
