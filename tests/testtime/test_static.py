from __future__ import annotations

import torch
from torch import Tensor, nn

from fedmerge.testtime import Node, Static


def test_it_predicts_as_the_model_does_in_evaluation_mode(models: list[nn.Module], batch: Tensor) -> None:
    expected = models[0](batch)
    models[0].train()  # dropout and batch statistics, were they used, would change the logits
    logits, trace = Static(models[0]).observe(batch)
    assert torch.equal(logits, expected)
    assert trace is None
    assert not logits.requires_grad
    assert models[0].training


def test_one_pass_a_batch_and_reset(models: list[nn.Module], batch: Tensor) -> None:
    node = Static(models[0])
    node.observe(batch)
    node(batch)
    assert node.forward_passes == 2
    node.reset()
    assert node.forward_passes == 0


def test_it_is_a_node(models: list[nn.Module]) -> None:
    assert isinstance(Static(models[0]), Node)
