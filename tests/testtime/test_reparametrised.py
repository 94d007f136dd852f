"""Weights that are computed from others are merged by what they are worth, and become what a merge says."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from fedmerge.models.plain import plain
from fedmerge.models.state import average
from fedmerge.testtime import TESTTIME, baselines
from tests.facts import refused
from tests.testtime.every_method import each
from tests.testtime.grouped import adaptive


def _pruned(model: nn.Module) -> None:
    prune.l1_unstructured(model.conv, "weight", amount=0.4)


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()

    def right_inverse(self, x: Tensor) -> Tensor:
        return x.log()


def _positive(model: nn.Module) -> None:
    model.conv.weight.data.abs_()
    parametrize.register_parametrization(model.conv, "weight", Positive())


PARTS: dict[str, Callable[[nn.Module], Any]] = {
    "weight norm": lambda model: parametrizations.weight_norm(model.conv),
    "old weight norm": lambda model: nn.utils.weight_norm(model.conv),
    "weight norm of the head": lambda model: parametrizations.weight_norm(model.fc),
    "pruning": _pruned,
    "positive": _positive,
    "spectral norm": lambda model: parametrizations.spectral_norm(model.conv),
    "old spectral norm": lambda model: nn.utils.spectral_norm(model.conv),
    "orthogonal": lambda model: parametrizations.orthogonal(model.fc),
}
PROJECTING = ("spectral norm", "old spectral norm", "orthogonal")


def _reparametrised(models: list[nn.Module], kind: str, batch: Tensor) -> list[nn.Module]:
    for model in models:
        PARTS[kind](model)
        model.train()(batch)  # an old spectral norm has its first power iteration here
        model.eval()(batch)
    return models


@pytest.mark.parametrize("kind", PARTS)
@each
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_computed_from_others(
    name: str, kind: str, models: list[nn.Module], batch: Tensor
) -> None:
    """Merged by their effective values: a node of the plain networks says the same, where no norm is kept."""
    given = _reparametrised(models, kind, batch)
    if kind in PROJECTING and name == "adamerging":
        with refused("change", "torch.nn.utils.parametrize.remove_parametrizations", "weight"):
            TESTTIME[name].call(given)
        return
    node = TESTTIME[name].call(given)
    found = node.observe(batch)[0]
    assert found.isfinite().all()
    copy.deepcopy(node).observe(batch)
    if kind not in PROJECTING or name == "entropy-weighted":
        expected = TESTTIME[name].call([plain(model) for model in given]).observe(batch)[0]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", PROJECTING)
@pytest.mark.filterwarnings("ignore")
def test_a_merged_weight_is_what_its_reparametrisation_says(
    kind: str, models: list[nn.Module], batch: Tensor
) -> None:
    """By mean merging: W / s of the mean W with s its largest singular value, or U V^T of W = U S V^T."""
    given = _reparametrised(models, kind, batch)
    node = adaptive(given, temperature=math.inf)
    node.observe(batch)
    start = baselines.T3A(given).model
    key = "fc.weight" if kind == "orthogonal" else "conv.weight"
    mean = average([plain(model).state_dict() for model in given])[key].flatten(1).double()
    u, s, v = torch.linalg.svd(mean, full_matrices=False)
    expected = (u @ v if kind == "orthogonal" else mean / s[0]).float()
    merged = node.sources.merged[key].flatten(1)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain(start).state_dict()[key].flatten(1), expected, rtol=1e-4, atol=1e-5)
    assert float(torch.linalg.matrix_norm(merged, ord=2)) == pytest.approx(1, rel=1e-5)
