from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedmerge.merging.matching.solve import factorised, solve

RNG = torch.Generator().manual_seed(0)
X = torch.randn(50, 8, generator=RNG, dtype=torch.float64)
T = torch.randn(50, 3, generator=RNG, dtype=torch.float64)


def rank_of_four() -> Tensor:
    """50 x 8 of rank four, with singular values from 1 down to 1/4 and four of a millionth."""
    left, _, right = torch.linalg.svd(X, full_matrices=False)
    values = torch.tensor([1, 0.75, 0.5, 0.25, 1e-6, 1e-6, 1e-6, 1e-6], dtype=torch.float64)
    return left @ torch.diag(values) @ right


def test_without_noise_both_solvers_give_least_squares() -> None:
    wanted = torch.linalg.lstsq(X, T).solution
    torch.testing.assert_close(solve(X.T @ X, X.T @ T, solver="pinv", rows=50), wanted)
    torch.testing.assert_close(solve(X.T @ X, X.T @ T, ridge=1e-12), wanted)


def test_ridge_is_a_penalty_in_units_of_the_mean_square() -> None:
    """``argmin |X W - T|^2 + r |W|^2`` with r = ridge trace(G) / d: least squares with rows sqrt(r) I."""
    r = 0.1 * float(X.square().sum()) / 8
    rows = torch.cat([X, r**0.5 * torch.eye(8, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(rows, torch.cat([T, torch.zeros(8, 3, dtype=torch.float64)])).solution
    torch.testing.assert_close(solve(X.T @ X, X.T @ T, ridge=0.1), wanted)


@pytest.mark.parametrize("rows", [8, 50, 3_000_000])
def test_pinv_cuts_where_float32_does(rows: int) -> None:
    """rtol = max(rows, d) 2^-23: 8e-6 or more drops the four of 1e-6, 0.36 the quarter, too."""
    x = rank_of_four()
    wanted = torch.linalg.pinv(x, rtol=max(rows, 8) * 2**-23) @ T
    found = solve(x.T @ x, x.T @ T, solver="pinv", rows=rows)
    if rows == 8:  # 9.5e-7 keeps the four of 1e-6; their squares are known to few digits
        assert found.norm() > 1e4
    else:
        torch.testing.assert_close(found, wanted)


def test_a_matrix_that_cannot_be_factored_is_cut() -> None:
    """An input that is always zero and no ridge: Cholesky meets a zero; that input gets the weight zero."""
    x = torch.cat([X, torch.zeros(50, 1, dtype=torch.float64)], 1)
    found = solve(x.T @ x, x.T @ T, ridge=0.0, rows=50)
    torch.testing.assert_close(found[:8], torch.linalg.lstsq(X, T).solution)
    assert torch.equal(found[8], torch.zeros(3, dtype=torch.float64))


def test_each_of_many_small_systems_has_its_own_scale() -> None:
    """Depthwise: a stack of systems, one of them zero, one a thousand times another."""
    stack = torch.stack([X, 1000 * X, 0 * X])
    gram, cross = stack.transpose(1, 2) @ stack, stack.transpose(1, 2) @ T
    found = solve(gram, cross, ridge=1e-3)
    torch.testing.assert_close(found[0], solve(gram[0], cross[0], ridge=1e-3))
    torch.testing.assert_close(found[1], found[0] / 1000)
    assert torch.equal(found[2], torch.zeros(8, 3, dtype=torch.float64))
    both = solve(gram[:2], cross[:2], solver="pinv", rows=50)
    torch.testing.assert_close(both[0], 1000 * both[1])


@pytest.mark.parametrize("solver", ["ridge", "pinv"])
def test_half_of_a_solution_gives_the_form_between_columns(solver: str) -> None:
    """``T^T X (X^T X)^-1 X^T T``: the squared lengths of the targets' projections onto the inputs."""
    fitted = X @ torch.linalg.lstsq(X, T).solution
    found = factorised(X.T @ X, solver=solver, ridge=1e-12, rows=50).between(X.T @ T)  # type: ignore[arg-type]
    torch.testing.assert_close(found, fitted.T @ fitted)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("solver", ["ridge", "pinv"])
def test_a_fit_is_pulled_to_a_prior(solver: str) -> None:
    """``argmin |X W - T|^2 + r |W - P|^2``: with rows sqrt(r) I and targets sqrt(r) P, or r to 0 of it."""
    x = torch.cat([X[:, :6], X[:, :2]], 1) if solver == "pinv" else X  # two columns twice: a null space
    prior = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    r = 0.1 * float(x.square().sum()) / 8 if solver == "ridge" else 1e-9
    rows = torch.cat([x, r**0.5 * torch.eye(8, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(rows, torch.cat([T, r**0.5 * prior])).solution
    found = factorised(x.T @ x, solver=solver, ridge=0.1, rows=50)  # type: ignore[arg-type]
    torch.testing.assert_close(found.towards(prior, x.T @ x, x.T @ T), wanted, rtol=1e-5, atol=1e-5)
