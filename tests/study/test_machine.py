"""The switches of PyTorch that a run sets, and leaves as they were."""

import pytest
import torch

from fedmerge.federation.grids.ray.numerics import Numerics
from fedmerge.study.machine import reproducible


@pytest.mark.parametrize(("deterministic", "warn_only"), [(False, False), (True, True), (True, False)])
def test_switches_are_after_a_run_what_they_were_before(deterministic, warn_only):
    with reproducible(1):
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        before = Numerics.here()
        with reproducible(2):
            inside = Numerics.here()
        assert Numerics.here() == before
        assert (inside.deterministic, inside.warn_only, inside.threads) == (True, True, 2)
