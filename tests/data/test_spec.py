from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmerge.data import Arrays, CohortSpec, SiteSpec, build_cohort, cohort_names, read_cohort
from fedmerge.errors import FedMergeError
from fedmerge.validation import validate

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
        ({"sites": sites("a", "a", source="digits")}, "two sites are named 'a'"),
        ({"sites": sites("a")}, "site 'a' has no source"),
        ({"sites": sites("a", source="digits", unseen=True)}, "at least one must train"),
        ({"sites": []}, "field 'sites'"),
        ({"sites": sites("a", source="digits", classes=[1, 1])}, "1. is listed twice"),
        ({"sites": sites("a", source="digits", classes=[-1])}, r"'sites\[0\].classes\[0\]'"),
        ({"sites": sites("../a", source="digits")}, r"field 'sites\[0\].name'"),
        ({"sites": sites("a", source="digit")}, r"field 'sites\[0\].source'.*Did you mean 'digits'"),
        (
            {"sites": sites("a", lable_skew=1)},
            r"unknown field 'sites\[0\].lable_skew'. Did you mean 'label_skew'",
        ),
        (
            {"sites": sites("a", label_skew=0)},
            r"'sites\[0\].label_skew' should be greater than 0 \(given: 0\)",
        ),
        ({"sites": sites("a", share=float("inf"))}, r"'sites\[0\].share' should be a finite number"),
        ({"sites": sites("a", limit=0)}, r"'sites\[0\].limit'"),
        (
            {"sites": sites("a", scanner=[{"kind": "blurr", "severity": 1}])},
            r"scanner\[0\].kind.*mean 'blur'",
        ),
        ({"sites": sites("a", scanner=[{"kind": "blur"}])}, r"'sites\[0\].scanner\[0\].severity' is missing"),
        ({"source": "digits", "sites": sites("a"), "channels": 2}, "'channels' cannot be 2. Allowed: 1, 3"),
        ({"source": "digits", "sites": sites("a"), "label_skew": "disjiont"}, "'label_skew'"),
        ({"source": "digits", "sites": sites("a"), "classes": ["x", "x"]}, "x. is listed twice"),
        (
            {"source": "digits", "sites": sites("a"), "minimum": {"sample": 3}},
            "mean 'samples'. Allowed: classes,",
        ),
        ({"source": "digits", "sites": sites("a"), "siez": 16}, "unknown field 'siez'. Did you mean 'size'"),
    ],
)
def test_a_wrong_specification_is_a_sentence(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(FedMergeError, match=words) as caught:
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
    with pytest.raises(FedMergeError, match="unknown cohort 'near'"):
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
    with pytest.raises(FedMergeError, match=r"Did you mean 'digits-scanners'\? Allowed: .*wbc-labs"):
        read_cohort("digit-scanners")
    with pytest.raises(FedMergeError, match=r"no cohort file nowhere/x\.yaml"):
        read_cohort("nowhere/x.yaml")


def test_a_specification_in_python_can_hold_arrays() -> None:
    site = SiteSpec(name="a", source=numbered())
    made = CohortSpec(name="mine", sites=(site,))
    assert len(build_cohort(made, 0)["a"].everything) == 200
    assert made.model_dump(mode="json")["sites"][0]["source"] == str(numbered())
