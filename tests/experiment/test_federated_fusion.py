"""A whole run that fuses from sums: the same networks as from the union of the images, and its traffic."""

import pytest
import torch

from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.seed import Cell
from fedmerge.experiment.stages.setup import set_up
from fedmerge.models import ModelPool

METHODS = ["hf", {"method": "mean", "label": "repaired", "after": "repair"}]


@pytest.fixture(scope="module")
def made():
    """What was fused already, by what was asked for."""
    return {}


@pytest.fixture
def fused(experiment, cohort, tmp_path, made):
    """Train the tiny federation, fuse with images from somewhere; returns the networks and the record."""

    def go(masked=False, **data):
        asked = (masked, *sorted(data.items()))
        if asked not in made:
            made[asked] = fuse(masked, data)
        return made[asked]

    def fuse(masked, data):
        given = experiment | {"fusion": METHODS, "fusion_data": data}
        given |= {"federation": {"secure_statistics": True}} if masked else {}
        checked, _ = read_experiment(given)
        record = Record({"config_hash": "x"})
        (federation,) = federations(cohort, checked)
        folder = tmp_path / f"{data['from']}-{masked}"
        setup = set_up(checked, cohort, federation.members, 0, folder, record, "cpu")
        Cell(setup, federation).execute()
        pool = ModelPool(folder / "delta" / "fused")
        return {label: pool.model(label) for label in pool}, record

    return go


def test_fusion_in_the_hospitals_is_fusion_of_their_union(fused):
    """54 images of three hospitals, 18 each; what differs is where they are."""
    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    where = {"images": 54, "split": "train"}
    (union, _), (hospitals, record) = (
        fused(**{"from": "union"}, **where),
        fused(**{"from": "hospitals"}, **where),
    )
    assert record.failures == []
    assert list(union) == list(hospitals) == ["hf", "repaired"]
    for label, model in union.items():
        expected = model(x)
        assert float((hospitals[label](x) - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
    for label in union:
        rows = [row for row in record.decisions if row["method"] == label and "exchanges" in row]
        assert [row["model"] for row in rows] == ["alpha", "beta", "gamma"]
        assert {row["site"] for row in rows} == {"delta"}
        assert all(row["bytes_down"] > 0 and row["bytes_up"] > 0 for row in rows)


def test_fusion_under_masks_is_fusion_in_the_open(fused):
    """The same training; sums that differ by 1e-13, and networks whose weights are float32."""
    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    where = {"from": "hospitals", "images": 54, "split": "train"}
    (masked, record), (plain, _) = fused(masked=True, **where), fused(**where)
    assert record.failures == []
    assert list(masked) == list(plain) == ["hf", "repaired"]
    for label, model in plain.items():
        expected = model(x)
        assert float((masked[label](x) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_a_share_that_is_too_small_is_a_failure_of_its_hospital(fused):
    """Validation splits have 12 images, and hospitals answer from 16 on."""
    models, record = fused(**{"from": "hospitals", "images": 60})
    assert models == {}
    sites = [row["site"] for row in record.failures if row["where"] == "sums"]
    assert sites == ["alpha", "beta", "gamma"] * 2
    (reason, *_) = [row["reason"] for row in record.failures if row["where"] == "hf"]
    assert "sums over images: 0 of 3 hospitals" in reason
    assert "at least 16 images" in reason
