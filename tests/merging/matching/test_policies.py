"""Batch-norm policies and integer buffers through the methods that match neurons."""

from __future__ import annotations

import copy

import pytest
import torch

from fedmerge.merging import merge
from fedmerge.models import ModelSpec, build
from fedmerge.models.graph import Program, find_neurons, permute, random_permutations

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})


@pytest.fixture
def copies():
    """A network with running statistics of its own, and the same one with its neurons in another order but
    other statistics: means 1 higher, variances 2 higher."""
    first = build(SPEC, 0).eval()
    for name, buffer in first.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.linspace(-1, 1, len(buffer)))
        elif name.endswith("running_var"):
            buffer.copy_(torch.linspace(1, 2, len(buffer)))
        else:
            buffer.fill_(7)
    other = copy.deepcopy(first)
    program = Program(first, torch.zeros(2, 1, 8, 8))
    neurons = find_neurons(program, program.values(first.state_dict()))
    state = permute(first.state_dict(), neurons, random_permutations(neurons, 3))
    for key in state:
        if key.endswith("running_mean"):
            state[key] = state[key] + 1
        elif key.endswith("running_var"):
            state[key] = state[key] + 2
    other.load_state_dict(state)
    return first, other


@pytest.mark.parametrize(("policy", "var_plus"), [("average", 1.0), ("mixture", 1.25), ("first", 0.0)])
def test_statistics_follow_the_policy_in_the_order_of_the_first_model(copies, policy, var_plus):
    """Means m and m + 1: their mean is m + 1/2. Variances v and v + 2: their mean is v + 1, and the mixture
    adds the variance of the means, 1/4."""
    fused = merge(
        list(copies), "rebasin", by="weights", data=torch.zeros(2, 1, 8, 8), batch_norm=policy
    ).model
    state, first = fused.state_dict(), copies[0].state_dict()
    mean_plus = 0.0 if policy == "first" else 0.5
    torch.testing.assert_close(state["features.1.running_mean"], first["features.1.running_mean"] + mean_plus)
    torch.testing.assert_close(state["features.1.running_var"], first["features.1.running_var"] + var_plus)


@pytest.mark.parametrize("method", ["hf", "kf", "rebasin", "ot", "regmean", "kf-gradient"])
def test_integer_buffers_survive(copies, method):
    options = {"descent": {"epochs": 1}} if method == "kf-gradient" else {}
    fused = merge(list(copies), method, data=torch.rand(20, 1, 8, 8), **options).model
    counter = fused.state_dict()["features.1.num_batches_tracked"]
    assert counter.dtype == torch.int64
    assert int(counter) == 7
