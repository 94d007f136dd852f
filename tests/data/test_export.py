"""Taken apart and put together again, a cohort must be the same bits, and no image may be with the server."""

import numpy as np
import pytest
import torch
import yaml

from fedmerge.data import (
    Appearance,
    Arrays,
    Cohort,
    CohortSpec,
    Site,
    SiteSpec,
    Split,
    build_cohort,
    read_cohort,
)
from fedmerge.data.export import export
from tests.facts import refused


def splits(site):
    return {"train": site.train, "val": site.val, "test": site.test}


def same(one, other):
    for name, split in splits(one).items():
        twin = splits(other)[name]
        assert torch.equal(split.images, twin.images)
        assert torch.equal(split.labels, twin.labels)
        assert (split.groups is None) == (twin.groups is None)
        assert split.groups is None or torch.equal(split.groups, twin.groups)


@pytest.fixture
def shared():
    """Two hospitals that divide a source, one with a scanner, and an unseen one; RGB."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    source = Arrays(images, np.arange(200) % 2, class_names=("no", "yes"))
    shift = (Appearance(kind="noise", severity=3),)
    sites = (
        SiteSpec(name="a", label_skew=5.0),
        SiteSpec(name="b", scanner=shift),
        SiteSpec(name="c", unseen=True),
    )
    return build_cohort(CohortSpec(name="shared", title="Shared", source=source, sites=sites), seed=5)


def test_each_hospital_s_own_file_gives_the_same_images_whatever_the_seed(shared, tmp_path):
    export(shared, tmp_path / "apart")
    for site in shared.sites:
        own = build_cohort(read_cohort(tmp_path / "apart" / site.name / f"{site.name}.yaml"), seed=99)
        same(own[site.name], site)
        assert own.class_names == shared.class_names


def test_the_server_has_the_images_of_unseen_hospitals_alone(shared, tmp_path):
    cohort = build_cohort(read_cohort(export(shared, tmp_path / "apart")), seed=99)
    assert {site.name: (site.remote, site.unseen) for site in cohort.sites} == {
        "a": (True, False),
        "b": (True, False),
        "c": (False, True),
    }
    same(cohort["c"], shared["c"])
    assert (cohort.shape, cohort.class_names, cohort.title) == (shared.shape, shared.class_names, "Shared")


def test_patients_travel_along(tmp_path):
    def split(n):
        images = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
        return Split(images, torch.arange(n) % 2, torch.arange(n) // 2)

    site = Site("a", "digits", split(20), split(6), split(4), ("no", "yes"))
    export(Cohort("grouped", "Grouped", (site,)), tmp_path / "apart")
    same(build_cohort(read_cohort(tmp_path / "apart" / "a" / "a.yaml"), seed=0)["a"], site)


def test_nothing_is_written_over(shared, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with refused("already", "empty"):
        export(shared, tmp_path)
    assert yaml.safe_load((tmp_path / "mine").read_text()) == "mine"
