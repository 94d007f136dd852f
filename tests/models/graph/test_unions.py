import torch

from fedmerge.models.graph.unions import Unions, slim


def test_fresh_members_follow_each_other_and_are_sets_of_their_own():
    unions = Unions()
    assert unions.fresh(2).tolist() == [0, 1]
    assert unions.fresh(3).tolist() == [2, 3, 4]
    assert unions.roots(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_a_set_is_named_by_its_smallest_member_however_it_was_joined():
    unions = Unions()
    unions.fresh(6)
    unions.join(torch.tensor([5, 4]), torch.tensor([4, 2]))
    unions.join(torch.tensor([1]), torch.tensor([5]))
    assert unions.roots(torch.arange(6)).tolist() == [0, 1, 1, 3, 1, 1]


def test_a_long_chain_given_at_once_in_any_order_is_one_set():
    unions = Unions()
    unions.fresh(100)
    order = torch.randperm(99, generator=torch.Generator().manual_seed(0))
    unions.join(order, order + 1)
    assert unions.roots(torch.arange(100)).tolist() == [0] * 100


def test_no_neuron_joins_nothing_and_stays_no_neuron():
    unions = Unions()
    unions.fresh(3)
    unions.join(torch.tensor([0, -1, -1]), torch.tensor([-1, 1, -1]))
    assert unions.roots(torch.tensor([0, 1, 2, -1])).tolist() == [0, 1, 2, -1]


def test_sets_are_those_of_joining_pair_by_pair():
    rng = torch.Generator().manual_seed(3)
    left, right = torch.randint(0, 60, (2, 40), generator=rng)
    unions = Unions()
    unions.fresh(60)
    unions.join(left, right)
    sets = [{member} for member in range(60)]
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        one, other = (next(s for s in sets if member in s) for member in (a, b))
        if one is not other:
            sets.remove(other)
            one |= other
    expected = [min(next(s for s in sets if member in s)) for member in range(60)]
    assert unions.roots(torch.arange(60)).tolist() == expected


def test_repeats_are_cut_only_where_all_tensors_repeat():
    rows, columns = torch.arange(3)[:, None].expand(3, 4), torch.arange(4).expand(3, 4)
    assert slim(rows)[0].shape == (3, 1)
    assert [t.shape for t in slim(rows, columns)] == [(3, 4), (3, 4)]
    assert [t.shape for t in slim(columns, columns)] == [(1, 4), (1, 4)]
