"""The digits are those that scikit-learn loads, to the bit, and need no import of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fedmerge.data.sources import digits as module
from fedmerge.data.sources.digits import digits


@pytest.mark.parametrize("table", [module.TABLE, "another/place"])
def test_they_are_what_scikit_learn_loads(monkeypatch: pytest.MonkeyPatch, table: object) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    monkeypatch.setattr(module, "TABLE", table)
    data = datasets.load_digits()
    images, labels = digits()
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.array_equal(images, data.images)
    assert np.array_equal(labels, data.target)


def test_they_are_read_without_importing_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # its import would fail
    assert len(digits()[0]) == 1797
