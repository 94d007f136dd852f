"""The switches of PyTorch that a run sets, and leaves as they were."""

import subprocess
import sys

import pytest
import torch

from fedmerge.experiment.folder.machine import reproducible
from fedmerge.federation.grids.ray.numerics import Numerics


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_switches_are_after_a_run_what_they_were_before(mode):
    with reproducible(1):
        torch.set_deterministic_debug_mode(mode)
        before = Numerics.here()
        with reproducible(2):
            inside = Numerics.here()
            warns = torch.is_deterministic_algorithms_warn_only_enabled()
        assert Numerics.here() == before
        assert (inside.deterministic, inside.threads, warns) == (1, 2, True)


def test_a_process_is_settled_without_pytorch_s_compiler():
    code = (
        "import sys; from fedmerge.experiment.folder.machine import settle; settle(1);"
        "print([name for name in ('torch._inductor', 'torch._dynamo') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
