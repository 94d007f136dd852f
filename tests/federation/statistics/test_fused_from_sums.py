"""Fusion from hospitals' sums is fusion of their pooled images."""

import pytest
import torch

from fedmerge.merging import merge
from fedmerge.models import build
from tests.federation.statistics.ward import NAMES

FUSIONS = [
    ("hf", {}),
    ("hf", {"after": "repair"}),
    ("kf", {"towards": "parents"}),
    ("mean", {"after": "batch-norm"}),
    ("rebasin", {}),
    ("ot", {}),
]


@pytest.mark.parametrize(("method", "options"), FUSIONS)
def test_fusion_from_sums_is_fusion_of_the_pooled_images(ward, method, options):
    fused, expected = both(ward, method, ward.local(), options)
    assert float((fused - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("method", "options"),
    [("kf", {"attribution": "conductance"}), ("regmean", {})],
)
def test_fusion_weighs_each_model_on_the_images_of_its_own_hospital(ward, method, options):
    fused, expected = both(ward, method, Own(ward), options)
    assert float((fused - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def test_the_output_layer_weighs_each_model_by_the_logits_of_its_own_hospital(ward):
    """By ablation s_mc is the mean over hospital m's share of |z_mc| where c is the class, plus 1e-8; scores
    have mean one in each model. The fused head's bias is sum_m s_mc b_mc / sum_m s_mc."""
    models = [build(ward.server.plan.model, 0) for _ in NAMES]
    scores, biases = [], []
    for model, (name, state) in zip(models, ward.states.items(), strict=True):
        model.load_state_dict(state)
        own = ward.shares[name]
        z = model.eval()(ward.server.plan.normalisation(own.images)).detach().double()
        mine = own.labels[:, None] == torch.arange(z.shape[1])
        score = (z.abs() * mine).mean(0) + 1e-8
        scores.append(score / score.mean())
        biases.append(list(state.values())[-1].double())
    s, b = torch.stack(scores), torch.stack(biases)
    options = {"attribution": "ablation", "refit": False}
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    fused = merge(models, "kf", names=NAMES, data=x, statistics=ward.statistics(), **options).model
    found = list(fused.state_dict().values())[-1].double()
    torch.testing.assert_close(found, (s * b).sum(0) / s.sum(0), rtol=1e-5, atol=1e-6)
    assert (found - b.mean(0)).abs().max() > 1e-3


class Own:
    """Pooled shares for what concerns all models, a hospital's own share for what concerns its model."""

    def __init__(self, ward):
        self.pooled = ward.local()
        self.each = [ward.local([name], own=m) for m, name in enumerate(NAMES)]

    def ask(self, kind, options, tensors):
        if kind not in ("inputs", "importance"):
            return self.pooled.ask(kind, options, tensors)
        return {key: value for own in self.each for key, value in own.ask(kind, options, tensors).items()}


def both(ward, method, local, options):
    """Outputs of the model fused in the federation, and of the one fused with sums from here."""
    models = [build(ward.server.plan.model, 0) for _ in NAMES]
    for model, state in zip(models, ward.states.values(), strict=True):
        model.load_state_dict(state)
    x = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return [
        merge(models, method, names=NAMES, data=x[:2], statistics=statistics, **options).model(x).detach()
        for statistics in (ward.statistics(), local)
    ]
