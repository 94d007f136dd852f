import copy

import pytest
import torch

from fedmerge.merging import merge
from tests.facts import refused


def scripted(table):
    """A score that reads the head's first weight: models are told apart by one number."""
    seen = []

    def score(state):
        value = round(float(state["2.weight"][0, 0]), 6)
        seen.append(value)
        return table[value]

    return score, seen


# The three heads' first weights are 1, 3 and -1.
def test_the_soup_starts_at_the_best_and_keeps_what_does_not_hurt(nets):
    """Best is model 1 (3). Trial: with model 0, mean (3 + 1) / 2 = 2, as good: accepted.
    With model 2, mean (3 + 1 - 1) / 3 = 1, where model 0's own score stands: 0.8 < 0.9, rejected."""
    score, _ = scripted({1.0: 0.8, 3.0: 0.9, -1.0: 0.1, 2.0: 0.9})
    fused = merge(nets, "greedy", score=score, names=["a", "b", "c"])
    assert [(d["model"], d["accepted"]) for d in fused.decisions] == [("b", True), ("a", True), ("c", False)]
    assert fused.coefficients == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.0})
    assert float(fused.model[2].weight.detach()[0, 0]) == pytest.approx(2.0)


def test_strictly_better_rejects_a_tie(nets):
    score, _ = scripted({1.0: 0.8, 3.0: 0.9, -1.0: 0.1, 2.0: 0.9})
    fused = merge(nets, "greedy", score=score, accept=">")
    assert [d["accepted"] for d in fused.decisions] == [True, False, False]


def test_half_gives_geometric_weights(nets):
    """Start at model 1; (3 + 1) / 2 = 2; then (2 - 1) / 2 = 0.5: weights 1/4, 1/4, 1/2."""
    score, _ = scripted({1.0: 0.5, 3.0: 0.6, -1.0: 0.1, 2.0: 0.7, 0.5: 0.8})
    fused = merge(nets, "greedy", score=score, order="index", accept=">", average="half")
    assert list(fused.coefficients.values()) == pytest.approx([0.25, 0.25, 0.5])
    assert float(fused.model[2].weight.detach()[0, 0]) == pytest.approx(0.5)


def test_index_over_weights_the_soup_after_a_rejection(nets):
    """Start at model 0 (1). Index 1: (1 * 1 + 3) / 2 = 2, rejected.
    Index 2: (1 * 2 + (-1)) / 3 = 1/3, accepted: model 0 has weight 2/3 though it is one of two members."""
    score, _ = scripted({1.0: 0.5, 3.0: 0.1, -1.0: 0.1, 2.0: 0.4, 0.333333: 0.9})
    fused = merge(nets, "greedy", score=score, order="index", begin="first", accept=">", average="index")
    assert list(fused.coefficients.values()) == pytest.approx([2 / 3, 0.0, 1 / 3])


def test_coefficients_rebuild_the_soup(nets):
    table = {1.0: 0.9, 3.0: 0.7, -1.0: 0.6, 2.0: 0.95}
    fused = merge(nets, "greedy", score=lambda s: table[round(float(s["2.weight"][0, 0]), 6)])
    rebuilt = sum(a * net[2].weight for a, net in zip(fused.coefficients.values(), nets, strict=True))
    torch.testing.assert_close(fused.model[2].weight.detach(), rebuilt.detach())


def test_data_and_labels_make_the_score(nets, data):
    """Models 0 and 1 are right on the data, model 2 on none: the soup holds what keeps accuracy 1."""
    x, y = data
    fused = merge(nets, "greedy", data=x, labels=y)
    assert fused.decisions[0]["score_with"] == 1.0
    assert fused.coefficients["model-2"] == 0.0


def test_without_a_score_it_is_refused_before_the_start(nets):
    with refused("validation", "greedy"):
        merge(nets, "greedy")


@pytest.mark.parametrize("method", ["greedy", "greedy-v1", "greedy-v2", "ensemble-greedy"])
def test_a_score_that_is_no_number_is_refused(nets, method):
    """NaN is neither above nor below 0.9: taken as the best or never beaten, it would decide by its place."""
    for score, words in (
        (lambda s: float("nan") if float(s["2.weight"][0, 0]) == 1 else 0.9, ["score=", "NaN"]),
        (lambda s: torch.tensor(float("nan")), ["score=", "NaN"]),
        (lambda s: None, ["score=", "NoneType"]),
        (lambda s: torch.zeros(2), ["score=", "Tensor"]),
    ):
        with refused(*words):
            merge(nets, method, score=score)


def test_a_score_of_minus_infinity_is_never_taken(nets):
    table = {1.0: -torch.inf, 3.0: 0.9, -1.0: -torch.inf, 2.0: -torch.inf}
    fused = merge(nets, "greedy", score=lambda s: torch.tensor(table[round(float(s["2.weight"][0, 0]), 6)]))
    assert list(fused.coefficients.values()) == [0.0, 1.0, 0.0]


def test_v1_halves_and_v2_divides_by_the_position(nets):
    """As in the tests of ``half`` and ``index`` above, under their own names; before model 2 comes model 1,
    the start, again: (2 + 3) / 2 = 2.5, no better."""
    score, _ = scripted({1.0: 0.5, 3.0: 0.6, -1.0: 0.1, 2.0: 0.7, 2.5: 0.7, 0.5: 0.8})
    assert list(merge(nets, "greedy-v1", score=score).coefficients.values()) == pytest.approx(
        [0.25, 0.25, 0.5]
    )
    score, seen = scripted({1.0: 0.5, 3.0: 0.1, -1.0: 0.1, 2.0: 0.4, 0.333333: 0.9})
    fused = merge(nets, "greedy-v2", score=score)
    assert list(fused.coefficients.values()) == pytest.approx([2 / 3, 0.0, 1 / 3])
    assert seen == [1.0, 3.0, -1.0, 2.0, 0.333333]
    assert [(d["model"], d["accepted"]) for d in fused.decisions] == [
        ("model-0", True),
        ("model-1", False),
        ("model-2", True),
    ]


def test_v1_tries_the_start_again_against_the_soup_as_it_is_by_then(nets):
    """The example is by hand: weights 0 and 1, score -|w - 0.7|. The start is 1 (-0.3); with model 0 it is
    (1 + 0) / 2 = 0.5 (-0.2), and with model 1, the start, (0.5 + 1) / 2 = 0.75 (-0.05)."""
    pool = [copy.deepcopy(nets[0]) for _ in range(2)]
    for value, net in enumerate(pool):
        torch.nn.init.constant_(net[2].weight, float(value))

    def score(state):
        return -abs(float(state["2.weight"][0, 0]) - 0.7)

    fused = merge(pool, "greedy-v1", score=score, names=["zero", "one"])
    assert float(fused.model[2].weight.detach()[0, 0]) == 0.75
    assert fused.coefficients == {"zero": 0.25, "one": 0.75}
    assert [d["model"] for d in fused.decisions] == ["one", "zero", "one"]
    members = merge(pool, "ensemble-greedy", soup="greedy-v1", score=score, names=["zero", "one"])
    assert members.coefficients == {"zero": 0.5, "one": 0.5}
    assert float(merge(pool, "greedy", score=score).model[2].weight.detach()[0, 0]) == 0.5


def test_v1_meets_the_start_in_its_own_turn(nets):
    """Heads 1, 3, -1; the start is the last, -1. Turn 0: (-1 + 1) / 2 = 0, accepted; 1: (0 + 3) / 2 = 1.5,
    rejected; 2, the start again: (0 - 1) / 2 = -0.5, accepted. Weights: 1/4 of model 0, 3/4 of model 2."""
    score, seen = scripted({1.0: 0.1, 3.0: 0.2, -1.0: 0.3, 0.0: 0.4, 1.5: 0.4, -0.5: 0.5})
    fused = merge(nets, "greedy-v1", score=score)
    assert list(fused.coefficients.values()) == [0.25, 0.0, 0.75]
    assert seen == [1.0, 3.0, -1.0, 0.0, 1.5, -0.5]


def test_v1_starts_at_the_first_of_the_best(nets):
    """Models 0 and 1 score alike: the start is model 0; (1 + 3) / 2 = 2 and (1 - 1) / 2 = 0 are no better."""
    score, _ = scripted({1.0: 0.6, 3.0: 0.6, -1.0: 0.1, 2.0: 0.6, 0.0: 0.6})
    fused = merge(nets, "greedy-v1", score=score)
    assert list(fused.coefficients.values()) == [1.0, 0.0, 0.0]
