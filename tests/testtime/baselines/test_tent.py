from __future__ import annotations

import torch
from torch import Tensor, nn

from fedmerge.models import ModelSpec, build
from fedmerge.seeding import generator
from fedmerge.testtime.baselines import BnAdapt, Tent
from fedmerge.testtime.baselines.start import mean_merged
from tests.facts import refused


def test_one_step_as_autograd_by_hand(models: list[nn.Module], batch: Tensor) -> None:
    """Adam's first step is lr g / (|g| + 1e-8), g from the mean model with batch norm in training mode."""
    mean = mean_merged(models, "mixture").requires_grad_(True)
    mean.norm.train()
    log_p = mean(batch).log_softmax(dim=1)
    (-(log_p.exp() * log_p).sum(dim=1).mean()).backward()
    node = Tent(models, learning_rate=0.01)
    node.observe(batch)
    for name in ("weight", "bias"):
        parameter = getattr(mean.norm, name)
        step = 0.01 * parameter.grad / (parameter.grad.abs() + 1e-8)
        torch.testing.assert_close(getattr(node.model.norm, name).detach(), (parameter - step).detach())


def test_all_but_the_affine_parameters_stays(models: list[nn.Module], batch: Tensor) -> None:
    node = Tent(models, learning_rate=0.1)
    node.observe(batch)
    mean = mean_merged(models, "mixture").state_dict()
    changed = {key for key, value in node.model.state_dict().items() if not torch.equal(value, mean[key])}
    assert changed == {"norm.weight", "norm.bias"}


def test_before_the_first_update_it_is_bn_adapt(models: list[nn.Module], batch: Tensor) -> None:
    node = Tent(models)
    adapted = BnAdapt(models).observe(batch)[0]
    assert torch.equal(node.observe(batch)[0], adapted)
    assert not torch.equal(node.observe(batch)[0], adapted)


def test_steps_and_the_time_to_predict(models: list[nn.Module], batch: Tensor) -> None:
    """After one step is what the second of two steps sees before its own update."""
    after, two = Tent(models, predict="after"), Tent(models, steps=2)
    assert torch.equal(after.observe(batch)[0], two.observe(batch)[0])
    assert (after.forward_passes, after.backward_passes) == (2, 1)
    assert (two.forward_passes, two.backward_passes) == (2, 2)


def test_entropy_goes_down(models: list[nn.Module], batch: Tensor) -> None:
    node = Tent(models, learning_rate=0.05)
    entropies = [
        torch.distributions.Categorical(logits=node.observe(batch)[0]).entropy().mean() for _ in range(9)
    ]
    assert entropies[-1] < entropies[0]


def test_layer_norms_of_a_transformer_are_adapted() -> None:
    options = {"patch": 4, "dim": 8, "depth": 1, "heads": 2}
    spec = ModelSpec(name="tiny-vit", in_channels=3, n_classes=4, image_size=8, options=options)
    node = Tent([build(spec, seed) for seed in (0, 1)])
    x = torch.randn(4, 3, 8, 8, generator=generator(0, "test"))
    first = node.observe(x)[0]
    assert len(node.adapted) == 6  # two a block, one at the end, each with scale and shift
    assert not torch.equal(node.observe(x)[0], first)


def test_a_model_without_norms_is_a_sentence(linear) -> None:
    with refused("network", "tent", "layers"):
        Tent([linear(1.0, 1.0)])
