"""Sums over images under masks are those in the open, to fixed point; and so is what is fused from them."""

import pytest
import torch

from fedmerge.federation import FederationOptions
from fedmerge.federation.hospital.sums.answer import program_of
from fedmerge.merging import merge
from fedmerge.models import build
from tests.federation.secure.statistics.asking import IMAGES, NAMES, OUTER, ask, own_sums


def fused(server, states, method, **options):
    models = [build(server.plan.model, 0) for _ in states]
    for model, state in zip(models, states.values(), strict=True):
        model.load_state_dict(state)
    here = {member.name: IMAGES[member.name] for member in server.clients}
    statistics = server.statistics(states, here, "train")
    x = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    result = merge(models, method, names=list(states), data=x[:2], statistics=statistics, **options)
    assert server.strategy.failures == []
    return result.model(x).detach(), statistics


@pytest.mark.parametrize("sums_asked", [OUTER, ("moments", {}, {})])
def test_sums_are_those_in_the_open_to_fixed_point(ward, states, cohort, sums_asked):
    """Each hospital rounds a number x to a multiple of 2^-44: by 2^-45 at most, and not at all from 2^9 on,
    where doubles are no finer. The sum in the open rounds three times, each by 2^-53 of all hospitals'
    magnitudes; the other one once."""
    server = ward()
    found, expected = (ask(each, states, *sums_asked) for each in (server, ward(masked=False)))
    assert found.keys() == expected.keys()
    assert float(found["images"]) == sum(IMAGES.values())
    each = [own_sums(server, states, cohort, name, *sums_asked[:2]) for name in NAMES]
    for key, value in expected.items():
        magnitude = sum(float(sums[key].abs().max()) for sums in each)
        bound = len(NAMES) * 2.0**-45 + len(NAMES) * 2.0**-53 * magnitude
        assert float((found[key] - value).abs().max()) <= bound, key
    assert server.strategy.failures == []


@pytest.mark.parametrize(
    ("method", "options"),
    [("hf", {"after": "repair"}), ("kf", {}), ("mean", {"after": "batch-norm"}), ("rebasin", {}), ("ot", {})],
)
def test_fusion_from_masked_sums_is_fusion_from_open_ones(ward, states, method, options):
    """The sums differ by 1e-13 and less, which solving may enlarge, and weights are float32."""
    found, statistics = fused(ward(), states, method, **options)
    expected, _ = fused(ward(masked=False), states, method, **options)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert statistics.together == tuple(sorted(NAMES))


def test_a_new_process_for_every_message_gives_the_same(ward, states, tmp_path):
    found, _ = fused(ward(shelves=tmp_path), states, "hf")
    expected, _ = fused(ward(), states, "hf")
    assert torch.equal(found, expected)


def test_a_hospital_that_lost_the_models_in_a_walk_gets_them_again(ward, states):
    server, other = ward(), ward(masked=False)
    first, second = program_of(server.plan.model).layers[:2]
    changed = {first.weight: states["gamma"][first.weight] * 2}
    answers = []
    for each in (server, other):
        statistics = each.statistics(states, IMAGES, "train")
        statistics.ask("walk", {}, states["alpha"])
        statistics.ask("layer", {"name": first.name}, {})
        each.kept[1].sums.session = None
        answers.append(statistics.ask("layer", {"name": second.name}, changed))
    for key, value in answers[1].items():
        torch.testing.assert_close(answers[0][key], value, rtol=1e-12, atol=1e-12)
    assert server.strategy.failures == []


def test_rounds_that_fuse_by_sums_are_masked(ward, plan):
    """Two rounds of hf, other models over the same images of the same hospitals."""
    server = ward(aggregate=FederationOptions(aggregate="hf").aggregate)
    server.rounds(server.start())
    assert server.strategy.failures == []
    assert "query.sums" not in server.grid.kinds()
    assert "query.secure_sums" in server.grid.kinds()
