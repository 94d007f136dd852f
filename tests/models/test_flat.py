from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from fedmerge.models.flat import ALIGNMENT, FlatModels
from fedmerge.models.state import average
from fedmerge.seeding import seeded
from tests.facts import refused


class Net(nn.Module):
    """Batch norm in encoder and head, an integer buffer each, and a buffer that is not persistent."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, classes))
        self.register_buffer("offset", torch.ones(5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean(dim=(2, 3)) + self.offset)


def net(seed: int) -> Net:
    """A net in which every floating-point entry is drawn, variances within [0.5, 1.5]."""
    with seeded(seed, "test"), torch.no_grad():
        model = Net().eval()
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if key.endswith("running_var") else value.normal_()
            else:
                value.fill_(seed + 7)
    return model


X = torch.linspace(-1, 1, 3 * 2 * 6 * 6).view(3, 2, 6, 6)


@pytest.fixture
def models() -> list[Net]:
    return [net(seed) for seed in range(3)]


@pytest.fixture
def flat(models: list[Net]) -> FlatModels:
    return FlatModels(models, models[0], "head")


def assert_states_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=1e-6, atol=1e-6)


def test_a_source_is_the_model_it_was_made_of(models: list[Net], flat: FlatModels) -> None:
    for index, model in enumerate(models):
        state = flat.source(index)
        for key, value in model.state_dict().items():
            assert torch.equal(state[key], value), key
        torch.testing.assert_close(flat.model(index)(X), model(X))
        torch.testing.assert_close(functional_call(models[0], state, (X,)), model(X))


def test_sources_and_merged_are_aligned_views(flat: FlatModels) -> None:
    for state, row in ((flat.source(1), flat.rows[1]), (flat.merged, flat.merged_row)):
        for value in state.values():
            if value.is_floating_point():
                assert value.untyped_storage().data_ptr() == row.untyped_storage().data_ptr()
                assert (value.data_ptr() - row.data_ptr()) % (4 * ALIGNMENT) == 0


def test_state_dicts_do_as_well_as_models(models: list[Net], flat: FlatModels) -> None:
    other = FlatModels([model.state_dict() for model in models], models[0], "head")
    assert torch.equal(other.rows, flat.rows)


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    policy=st.sampled_from(["mixture", "average"]),
)
def test_a_merge_is_the_weighted_average_of_the_states(weights: list[float], policy: str) -> None:
    """The same sums as ``state.average``, which adds in float64, up to the rounding of float32."""
    models = [net(seed) for seed in range(3)]
    flat = FlatModels(models, models[0], "head", batch_norm=policy)
    alpha = torch.tensor(weights) / sum(weights)
    flat.merge("encoder", alpha)
    flat.merge("head", alpha)
    states = [model.state_dict() for model in models]
    assert_states_close(flat.merged, average(states, alpha.tolist(), batch_norm=policy))


def test_the_mixture_of_two_batch_norms_in_closed_form() -> None:
    """Weights 1/4, 3/4; means 0, 4; variances 1, 2. Mean 3; variance (1 + 0)/4 + 3 (2 + 16)/4 - 9 = 4.75.

    The plain average of the variances is 1/4 + 6/4 = 1.75.
    """
    models = [net(0), net(1)]
    for model, mean, variance in zip(models, (0.0, 4.0), (1.0, 2.0), strict=True):
        model.norm.running_mean.fill_(mean)
        model.norm.running_var.fill_(variance)
    for policy, variance in (("mixture", 4.75), ("average", 1.75)):
        flat = FlatModels(models, models[0], "head", batch_norm=policy)
        flat.merge("encoder", torch.tensor([0.25, 0.75]))
        assert flat.merged["norm.running_mean"].tolist() == [3.0] * 5
        assert flat.merged["norm.running_var"].tolist() == [variance] * 5


def test_a_large_common_mean_does_not_eat_the_variance() -> None:
    """Means 10^4 in both, variances 10^-4: v + m^2 would lose v in float32; the centred form keeps it."""
    models = [net(0), net(1)]
    for model in models:
        model.norm.running_mean.fill_(1e4)
        model.norm.running_var.fill_(1e-4)
    flat = FlatModels(models, models[0])
    torch.testing.assert_close(flat.merged["norm.running_var"], torch.full((5,), 1e-4))


def test_merging_one_group_leaves_the_other(flat: FlatModels) -> None:
    before = {key: value.clone() for key, value in flat.merged.items()}
    flat.merge("head", torch.tensor([1.0, 0.0, 0.0]))
    for key, value in flat.merged.items():
        source = flat.source(0)[key] if key.startswith("head.") else before[key]
        assert torch.equal(value, source), key


def test_the_merged_model_starts_as_the_mean_and_follows_each_merge(
    models: list[Net], flat: FlatModels
) -> None:
    assert_states_close(flat.merged, average([model.state_dict() for model in models]))
    for group in ("encoder", "head"):
        flat.merge(group, torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(flat.merged_model(X), models[2](X))


def test_a_merge_after_a_not_finite_one_is_clean(models: list[Net], flat: FlatModels) -> None:
    for weights in (torch.full((3,), torch.nan), torch.tensor([0.0, 1.0, 0.0])):
        flat.merge("encoder", weights)
        flat.merge("head", weights)
    torch.testing.assert_close(flat.merged_model(X), models[1](X))


def test_models_are_neither_changed_nor_followed(models: list[Net]) -> None:
    states = [copy.deepcopy(model.state_dict()) for model in models]
    models[0].train()
    flat = FlatModels(models, models[0], "head")
    flat.merge("encoder", torch.tensor([1.0, 0.0, 0.0]))
    assert models[0].training
    assert models[0].conv.weight.requires_grad
    for model, state in zip(models, states, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    before = flat.model(0)(X)
    with torch.no_grad():
        models[0].conv.weight.zero_()
        models[0].offset.zero_()
    assert torch.equal(flat.model(0)(X), before)


def test_views_hold_after_a_copy_a_move_and_a_load(models: list[Net], flat: FlatModels) -> None:
    """Each of them gives the buffers new storage or new values; the modules must follow."""
    alpha = torch.tensor([0.2, 0.3, 0.5])
    fresh = FlatModels([models[0]] * 3, models[0], "head")
    fresh.load_state_dict(flat.state_dict())
    for other in (copy.deepcopy(flat), copy.deepcopy(flat).double(), fresh):
        for each in (flat, other):
            each.merge("encoder", alpha.to(each.rows))
            each.merge("head", alpha.to(each.rows))
        x = X.to(other.rows)
        torch.testing.assert_close(other.merged_model(x).float(), flat.merged_model(X))
        torch.testing.assert_close(other.model(2)(x).float(), models[2](X))
        assert other.merged_row.data_ptr() != flat.merged_row.data_ptr()
        assert other.model(0).offset.dtype == x.dtype


def test_the_state_dict_is_the_matrix_alone(flat: FlatModels) -> None:
    assert list(flat.state_dict()) == ["rows"]
    assert not list(flat.parameters())


def test_different_architectures_are_a_sentence(models: list[Net]) -> None:
    with refused("head.1", 3, 4):
        FlatModels([models[0], Net(classes=4)], models[0])
    with refused("conv.bias", 0):
        FlatModels([{k: v for k, v in models[0].state_dict().items() if k != "conv.bias"}], models[0])


def test_other_faults_are_sentences(models: list[Net]) -> None:
    with refused("merge", "model"):
        FlatModels([], models[0])
    with refused("batch-norm", "first"):
        FlatModels(models, models[0], batch_norm="first")
    with refused("head", "name"):
        FlatModels(models, models[0]).merge("head", torch.ones(3))
    models[0].register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    with refused("phase", "float16"):
        FlatModels(models[:1], models[0])


def test_views_keep_the_template_s_memory_format() -> None:
    """A channels-last template: its strides in every tied module, the values and the mean of both formats."""
    first, second = nn.Conv2d(3, 4, 2), nn.Conv2d(3, 4, 2)
    first = first.to(memory_format=torch.channels_last)
    flat = FlatModels([first, second], first)
    for index, model in enumerate((first, second)):
        weight = flat.model(index).weight
        assert weight.stride() == first.weight.stride() != second.weight.stride()
        assert torch.equal(weight, model.weight)
    torch.testing.assert_close(flat.merged["weight"], (first.weight + second.weight) / 2)
    assert flat.merged_model.weight.stride() == first.weight.stride()


def test_any_groups_are_merged_one_by_one(models: list[Net], flat: FlatModels) -> None:
    flat.part(lambda key: "first" if key.startswith("conv") else "rest")
    flat.merge("first", torch.tensor([0.0, 1.0, 0.0]))
    flat.put("rest", 2)
    for key, value in flat.merged.items():
        expected = models[1 if key.startswith("conv") else 2].state_dict()[key]
        assert not value.is_floating_point() or torch.equal(value, expected), key


@pytest.mark.parametrize("policy", ["mixture", "average"])
def test_merging_among_some_is_merging_a_pool_of_those(models: list[Net], policy: str) -> None:
    flat = FlatModels(models, models[0], "head", batch_norm=policy)
    fewer = FlatModels([models[0], models[2]], models[0], "head", batch_norm=policy)
    for each, among in ((flat, torch.tensor([0, 2])), (fewer, None)):
        for group in ("encoder", "head"):
            each.merge(group, torch.tensor([0.3, 0.7]), among)
    assert_states_close(flat.merged, fewer.merged)


def test_moving_from_an_anchor_moves_weights_alone(models: list[Net], flat: FlatModels) -> None:
    flat.merge("encoder", torch.tensor([0.2, 0.3, 0.5]))
    before = {key: value.clone() for key, value in flat.merged.items()}
    flat.move_from(flat.row_of(models[1].state_dict()), "encoder", 0.25)
    for key, value in flat.merged.items():
        moved = key.startswith(("conv", "norm")) and "running" not in key and value.is_floating_point()
        anchor = models[1].state_dict()[key]
        expected = anchor + 0.25 * (before[key] - anchor) if moved else before[key]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_a_row_of_another_architecture_is_a_sentence(flat: FlatModels) -> None:
    with refused("state", "head.1.weight"):
        flat.row_of(Net(classes=9).state_dict())


def test_replaced_modules_of_the_merged_model_follow_the_merge(models: list[Net], flat: FlatModels) -> None:
    def change(model: nn.Module) -> str:
        fresh = nn.Linear(5, 3)
        model.head[1] = fresh
        return "changed"

    assert flat.change_merged(change) == "changed"
    flat.split("head")
    flat.merge("head", torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(flat.merged_model.head[1].weight, models[2].head[1].weight)
