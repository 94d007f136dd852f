"""One-to-one pairing of neurons: linear assignment within strands and blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.models.graph import Group


def pair(cost: Tensor, group: Group | None = None) -> Tensor:
    """The cheapest permutation: entry k is the column that row k is paired with.

    cost: n x n; any sign. group: which neurons may change places (all for None). Where the group has blocks,
    the best pairing of whole blocks is found with the best pairing inside each pair of blocks, which is the
    optimum over all permutations that respect them. Exact (Jonker-Volgenant, scipy). Raises FedMergeError for
    costs that are not finite.
    """
    table = cost.detach().cpu().double()
    if not bool(table.isfinite().all()):
        raise FedMergeError(
            "neurons cannot be matched: what they are compared by is NaN or infinite. Give models whose "
            "weights and answers are of ordinary size."
        )
    if group is None:
        return _solve(table)
    if group.block is None:
        return _within(table, group.strand, torch.arange(group.size), torch.arange(group.size))[0]
    members = [(group.block == b).nonzero()[:, 0] for b in torch.unique(group.block)]
    inner = [[_within(table, group.strand, rows, columns) for columns in members] for rows in members]
    outer = _solve(torch.tensor([[price for _, price in row] for row in inner], dtype=torch.float64))
    result = torch.empty(group.size, dtype=torch.int64)
    for row, column in enumerate(outer.tolist()):
        result[members[row]] = inner[row][column][0]
    return result


def _within(table: Tensor, strand: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, float]:
    """Pair rows with columns of the same strand: the columns in the order of ``rows``, and the cost."""
    result = torch.empty(len(rows), dtype=torch.int64)
    price = 0.0
    for one in torch.unique(strand[rows]):
        left = (strand[rows] == one).nonzero()[:, 0]
        right = columns[strand[columns] == one]
        block = table[rows[left]][:, right]
        chosen = _solve(block)
        result[left] = right[chosen]
        price += float(block.gather(1, chosen[:, None]).sum())
    return result, price


def _solve(table: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment  # slow to import; a hospital's messages do without

    _, columns = linear_sum_assignment(table.numpy())
    return torch.from_numpy(columns)
