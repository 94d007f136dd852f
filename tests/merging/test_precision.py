"""Half, single and double precision: a merge keeps it, and does not overflow on the way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedmerge.merging import FUSION, merge
from fedmerge.models.outputs import logits_of
from tests.facts import refused
from tests.merging.own_networks import Net, fused, images


@pytest.mark.parametrize("method", FUSION.names())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_method_keeps_the_precision_and_gives_numbers(method: str, dtype: torch.dtype) -> None:
    """Close to what the same models in float64 give, to a few units in the last place of ``dtype``."""
    x, _ = images()
    weights = [{k: v.to(dtype) for k, v in Net(i).state_dict().items()} for i in (0, 1, 9)]

    def nets(wide: bool) -> list[nn.Module]:
        made = [Net(0), Net(1), Net(9)]
        for net, state in zip(made, weights, strict=True):
            net.to(torch.float64 if wide else dtype).load_state_dict(state)
        return made

    narrow, wide = nets(False), nets(True)
    model = fused(narrow[:2], method, dtype, start=narrow[2])
    for key, value in model.state_dict().items():
        assert value.dtype == dtype or not value.is_floating_point(), key
    out = logits_of(model(x.to(dtype)))
    assert out.dtype == dtype
    expected = fused(wide[:2], method, torch.float64, start=wide[2])(x.double())
    tolerance = {torch.float64: 1e-9, torch.float16: 0.01, torch.bfloat16: 0.08}[dtype]
    assert (out.double() - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


def test_half_precision_meets_in_float32() -> None:
    """Logits of 60,000 and 60,000: their mean is 60,000, though their sum does not fit float16."""
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).half() for _ in range(2)]
    for net in nets:
        nn.init.zeros_(net[1].weight)
        nn.init.constant_(net[1].bias, 60_000)
    x = torch.zeros(2, 1, 1, 1, dtype=torch.float16)
    for weights in ("uniform", [1.0, 3.0]):
        out = merge(nets, "ensemble-logits", weights=weights).model(x)
        assert out.tolist() == [[60_000, 60_000]] * 2


def test_task_arithmetic_that_overflows_is_a_sentence() -> None:
    """Three models at 32,000 from a start at 0: their sum, 96,000, is more than float16 holds."""
    nets = [nn.Linear(1, 1, bias=False).half() for _ in range(4)]
    for net, value in zip(nets, (32_000, 32_000, 32_000, 0), strict=True):
        nn.init.constant_(net.weight, value)
    with refused("weight", "+04", "float16"):
        merge(nets[:3], "task-arithmetic", scale=1.0, start=nets[3])
    assert merge(nets[:3], "task-arithmetic", scale=0.5, start=nets[3]).model.weight.item() == 48_000
