from __future__ import annotations

import pytest
import torch
from torch import nn

from fedmerge.merging import FUSION, model_stock, task_vectors
from fedmerge.merging.methods import Context, Merged
from fedmerge.merging.parents import Parents
from tests.facts import refused


class Point(nn.Module):
    """A model that is one parameter vector ``w``, and batch norm's buffers where asked for."""

    def __init__(self, *entries: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(entries))


class Counted(Point):
    """A parameter, a float buffer and a counter."""

    def __init__(self, entry: float, buffer: float, count: int) -> None:
        super().__init__(entry)
        self.register_buffer("b", torch.tensor([buffer]))
        self.register_buffer("num_batches_tracked", torch.tensor(count))


def fuse(models: list[nn.Module], start: nn.Module, method: str, seed: int = 0, **options: object) -> Merged:
    parents = Parents.of(models)
    context = Context(start=dict(start.state_dict()), seed=seed)
    return FUSION[method].call(parents, context, **FUSION[method].check(options))


def entries(merged: Merged) -> list[float]:
    return merged.model.w.tolist()  # type: ignore[operator, union-attr]


def test_task_arithmetic_adds_scaled_task_vectors() -> None:
    """Start 1, tau = 2 and -1 and 5 more: 1 + 0.5 * (2 - 1 + 5) = 4."""
    merged = fuse([Point(3.0), Point(0.0), Point(6.0)], Point(1.0), "task-arithmetic", scale=0.5)
    assert entries(merged) == [4.0]
    assert merged.coefficients == {"model-0": 0.5, "model-1": 0.5, "model-2": 0.5}
    assert entries(fuse([Point(11.0)], Point(1.0), "task-arithmetic")) == [4.0]  # 1 + 0.3 * 10


def test_task_arithmetic_with_one_mth_is_the_mean_of_parameters() -> None:
    models = [Point(3.0, 1.0), Point(0.0, -4.0)]
    assert entries(fuse(models, Point(7.0, 9.0), "task-arithmetic", scale=0.5)) == [1.5, -1.5]


@pytest.mark.parametrize(("combine", "expected"), [("mean", [5.0, -3.0, 4.0]), ("sum", [5.0, -6.0, 4.0])])
def test_ties_on_three_entries(combine: str, expected: list[float]) -> None:
    """Start zero; two of three entries stay (keep 2/3): [5, -2, 1] -> [5, -2, 0], [-3, -4, 0] -> itself,
    [0, 1, 4] -> itself. Sums: 2, -5, 4, so signs +, -, +. Agreeing: {5}, {-2, -4}, {4}."""
    models = [Point(5.0, -2.0, 1.0), Point(-3.0, -4.0, 0.0), Point(0.0, 1.0, 4.0)]
    merged = fuse(models, Point(0.0, 0.0, 0.0), "ties", keep=2 / 3, combine=combine)
    assert entries(merged) == expected
    assert [d["threshold"] for d in merged.decisions] == [2.0, 3.0, 1.0]


def test_ties_scales_from_the_start() -> None:
    """Start 10, one model at 14 with keep 1: 10 + 0.5 * 4."""
    assert entries(fuse([Point(14.0)], Point(10.0), "ties", keep=1.0, scale=0.5)) == [12.0]


def test_ties_takes_the_share_of_the_whole_flat_vector() -> None:
    """Four entries in two tensors, keep 1/2: both that stay are in the first tensor."""
    vector = {"a": torch.tensor([5.0, -6.0]), "b": torch.tensor([[1.0], [2.0]])}
    limit = task_vectors.threshold(vector, 0.5)
    assert limit == 5.0
    trimmed = task_vectors.trim(vector, limit)
    assert trimmed["a"].tolist() == [5.0, -6.0]
    assert trimmed["b"].tolist() == [[0.0], [0.0]]


def test_ties_gives_an_undecided_entry_the_sign_of_the_majority() -> None:
    """Entry 0: 2 - 2 = 0; entries 1 and 2 are negative, so entry 0 takes -2. With one entry up and one
    down there is no majority, and an undecided entry stays at the start."""
    down = [Point(2.0, -1.0, -1.0), Point(-2.0, -1.0, -3.0)]
    assert entries(fuse(down, Point(0.0, 0.0, 0.0), "ties", keep=1.0)) == [-2.0, -1.0, -2.0]
    even = [Point(2.0, -1.0, 1.0), Point(-2.0, -1.0, 3.0)]
    assert entries(fuse(even, Point(0.0, 0.0, 0.0), "ties", keep=1.0)) == [0.0, -1.0, 2.0]


def test_dare_drops_at_the_rate_and_rescales() -> None:
    """Of 40,000 ones a share q is dropped and the others are 1 / (1 - q): mean 1, with standard error
    sqrt(q / (1 - q) / 40000) = 0.015 at q = 0.9; five of them are 0.075."""
    ones = {"a": torch.ones(200, 200, dtype=torch.float64)}
    out = task_vectors.drop_entries(ones, 0.9, torch.Generator().manual_seed(0))["a"]
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 10.0], dtype=torch.float64))
    assert abs(out.mean().item() - 1.0) < 0.075


def test_dare_without_a_drop_is_what_comes_then() -> None:
    models, start = [Point(1.0, -2.0, 4.0), Point(3.0, 2.0, 1.0)], Point(0.5, 0.5, 0.5)
    assert entries(fuse(models, start, "dare", drop=0.0)) == entries(fuse(models, start, "task-arithmetic"))
    with_ties = fuse(models, start, "dare", drop=0.0, then="ties", combine="sum")
    assert entries(with_ties) == entries(fuse(models, start, "ties", keep=1.0, combine="sum"))


def test_dare_depends_on_the_seed_and_on_nothing_else() -> None:
    models, start = [Point(*[1.0] * 64), Point(*[2.0] * 64)], Point(*[0.0] * 64)
    torch.manual_seed(1)
    first = entries(fuse(models, start, "dare", drop=0.5))
    torch.manual_seed(2)
    assert entries(fuse(models, start, "dare", drop=0.5)) == first
    assert entries(fuse(models, start, "dare", drop=0.5, seed=1)) != first
    assert len(set(first)) == 4  # neither, one, the other, both: masks of two models differ


def test_model_stock_of_orthogonal_moves_is_the_start_and_of_equal_ones_the_mean() -> None:
    """cos = 0 gives t = 0, cos = 1 gives t = 2 / (1 + 1) = 1."""
    start = Point(1.0, 1.0)
    assert entries(fuse([Point(4.0, 1.0), Point(1.0, 2.0)], start, "model-stock")) == [1.0, 1.0]
    merged = fuse([Point(3.0, 1.0), Point(7.0, 1.0)], start, "model-stock")
    assert entries(merged) == [5.0, 1.0]
    assert merged.decisions == [{"tensor": "w", "t": 1.0, "cosine": pytest.approx(1.0)}]


def test_model_stock_in_between() -> None:
    """tau = (1, 0) and (1, 1): cos = 1 / sqrt 2, t = 2 cos / (1 + cos); theta = t * (1, 1/2)."""
    cosine = 0.5**0.5
    t = 2 * cosine / (1 + cosine)
    merged = fuse([Point(1.0, 0.0), Point(1.0, 1.0)], Point(0.0, 0.0), "model-stock")
    assert entries(merged) == pytest.approx([t, t / 2])
    assert merged.decisions[0] == {"tensor": "w", "t": pytest.approx(t), "cosine": pytest.approx(cosine)}


def test_model_stock_keeps_t_at_zero_for_moves_that_disagree_and_may_average_vectors() -> None:
    """tau = 1 and -1/2: cos = -1, t = 0. As a plain mean: 1/4."""
    models = [Point(1.0), Point(-0.5)]
    assert entries(fuse(models, Point(0.0), "model-stock")) == [0.0]
    assert entries(fuse(models, Point(0.0), "model-stock", vectors="mean")) == [0.25]


def test_the_mean_cosine_without_going_through_pairs() -> None:
    """Three random vectors, against torch's own cosine of the three pairs; and one that did not move."""
    taus = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    units = taus / taus.norm(dim=1, keepdim=True)
    pairs = [torch.cosine_similarity(taus[i], taus[j], dim=0) for i, j in ((0, 1), (0, 2), (1, 2))]
    squared = float(units.sum(0).square().sum())
    assert model_stock.mean_cosine(squared, 3, 3) == pytest.approx(float(sum(pairs)) / 3)
    assert model_stock.mean_cosine(float(units[:2].sum(0).square().sum()), 2, 3) == pytest.approx(
        float(pairs[0]) / 3
    )


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare", "model-stock"])
def test_buffers_are_averaged_and_counters_kept(method: str) -> None:
    merged = fuse([Counted(1.0, 2.0, 7), Counted(3.0, 6.0, 9)], Counted(0.0, 100.0, 0), method)
    assert merged.model.b.item() == 4.0  # type: ignore[operator, union-attr]
    assert merged.model.num_batches_tracked.item() == 7  # type: ignore[operator, union-attr]


def test_tied_parameters_stay_tied() -> None:
    """The same matrix under two names is dropped by one mask and counted once."""

    class Tied(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8, bias=False)
            self.b = nn.Linear(8, 8, bias=False)
            self.b.weight = self.a.weight
            nn.init.constant_(self.a.weight, value)

    parents = Parents.of([Tied(1.0), Tied(2.0)])
    assert task_vectors.parameter_names(parents.template) == {"a.weight": "a.weight", "b.weight": "a.weight"}
    merged = fuse([Tied(1.0), Tied(2.0)], Tied(0.0), "dare", drop=0.5).model.state_dict()
    assert merged["a.weight"].equal(merged["b.weight"])
    assert len(merged["a.weight"].unique()) > 1


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare", "model-stock"])
def test_a_start_that_is_missing_or_does_not_fit_is_a_sentence(method: str) -> None:
    parents = Parents.of([Point(1.0), Point(2.0)])
    with refused(method, "weights", "start="):
        FUSION[method].call(parents, Context())
    with refused("'w'", 2, "start", 1, "model-0"):
        fuse([Point(1.0)], Point(1.0, 2.0), method)
    with refused("NaN", "'w'"):
        fuse([Point(1.0)], Point(float("nan")), method)


def test_options_out_of_range_are_sentences() -> None:
    for method, option in (("ties", {"keep": 0.0}), ("dare", {"drop": 1.0})):
        with refused("option", next(iter(option))):
            FUSION[method].check(option)
