from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import Contrast, Tent
from fedmerge.testtime.baselines.contrast import stepped
from fedmerge.testtime.entropy import sample_entropies
from fedmerge.testtime.source_fit import norm_distances
from tests.facts import refused


def test_one_source_is_tent_on_it(models: list[nn.Module], batch: Tensor) -> None:
    node, tent = Contrast(models[:1], learning_rate=0.05), Tent(models[:1], learning_rate=0.05)
    for each in (batch, batch * 2, batch.flip(0)):
        found, trace = node.observe(each)
        torch.testing.assert_close(found.softmax(1), tent.observe(each)[0].softmax(1))
        assert trace.encoder == (1.0,)


def test_the_first_weights_are_the_nearest_batch_norms(models: list[nn.Module], batch: Tensor) -> None:
    """Each source has one norm, so its distance is that norm's mean divergence."""
    node = Contrast(models, optimise=False)
    _, trace = node.observe(batch)
    far = []
    for model in models:
        with norm_distances(model) as found, torch.no_grad():
            model(batch)
        far.append(found[0])
    torch.testing.assert_close(torch.tensor(trace.encoder), torch.softmax(-torch.stack(far), dim=0))


def test_a_source_whose_statistics_are_the_batchs_gets_nearly_all(
    models: list[nn.Module], batch: Tensor
) -> None:
    near = copy.deepcopy(models[0])
    with torch.no_grad():
        seen = near.conv(batch)
        near.norm.running_mean.copy_(seen.mean(dim=(0, 2, 3)))
        near.norm.running_var.copy_(seen.var(dim=(0, 2, 3), correction=0))
    far = copy.deepcopy(near)
    far.norm.running_mean.add_(10 * far.norm.running_var.sqrt())
    _, trace = Contrast([far, near], optimise=False).observe(batch)
    assert trace.encoder[1] > 0.999


def test_the_step_makes_the_mixture_surer() -> None:
    logits = (
        torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 4.0, 2.0])[:, None, None]
    )

    def entropy(z: Tensor) -> float:
        p = (torch.softmax(z, 0)[:, None, None] * logits.softmax(-1)).sum(0)
        return float(sample_entropies(p.log()).mean())

    z = torch.zeros(3)
    assert entropy(stepped(z, logits)) < entropy(z)
    assert int(stepped(z, logits).argmax()) == 1


def test_only_the_source_of_largest_weight_is_adapted(models: list[nn.Module], batch: Tensor) -> None:
    node = Contrast(models, learning_rate=0.1)
    before = copy.deepcopy(node.networks.state_dict())
    _, trace = node.observe(batch)
    chosen = trace.encoder.index(max(trace.encoder))
    moved = {key for key, value in node.networks.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {f"{chosen}.norm.weight", f"{chosen}.norm.bias"}


def test_networks_without_norms_are_refused(linear) -> None:
    with refused("contrast", "entropy-weighted"):
        Contrast([linear(1.0, 1.0), linear(2.0, 1.0)])
