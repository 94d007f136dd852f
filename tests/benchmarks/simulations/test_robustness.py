"""The figure of robustness, small: five hospitals, two rounds; and its words from made-up numbers."""

from __future__ import annotations

import itertools

import pandas as pd

from benchmarks.simulations import robustness


def test_one_hostile_hospital_in_five_ruins_the_mean_and_no_robust_aggregator(monkeypatch):
    """After three rounds the others still learn; the mean of an update times -10 and four others goes
    backwards: (4 - 10) / 5 < 0 of an honest step."""
    monkeypatch.setattr(robustness, "SHARES", (0.0, 0.2))
    monkeypatch.setattr(robustness, "ATTACKS", {"update x -10": robustness.ATTACKS["update x -10"]})
    few = {"mean": {}, "median": {}, "multi-krum": {"hostile": 1}}
    monkeypatch.setattr(robustness, "AGGREGATORS", {name: {"method": name} | few[name] for name in few})
    todo = robustness.cases(1, ["like patients"], hospitals=5, rounds=3, width=4)
    assert len(todo) == 2 * 3
    rows = pd.DataFrame([robustness.run(case) for case in todo])
    scores = rows.set_index(["aggregator", "share"])["accuracy"]
    assert scores["mean", 0.2] < 0.25
    assert scores["mean", 0.2] < scores["mean", 0.0] - 0.3
    for name in ("median", "multi-krum"):
        assert scores[name, 0.2] > scores["mean", 0.2] + 0.2, scores
    assert robustness.render(robustness.figure(rows), "png").startswith(b"\x89PNG")


def test_smaller_shares_are_among_larger_ones_and_nobody_is_hostile_at_none():
    names = [f"h{i}" for i in range(10)]

    def hostile(share):
        plan = robustness.plan_of(robustness.Case("like patients", "labels flipped", share, "mean", 0), names)
        return {site for fault in plan.federation.faults for site in fault.sites}

    found = [hostile(share) for share in robustness.SHARES]
    assert [len(one) for one in found] == [0, 1, 2, 3, 4]
    assert all(a <= b for a, b in itertools.pairwise(found))


def test_runs_without_attack_are_done_once_and_stand_beside_each():
    """Accuracy is 0.9 without attack; at 30 % the mean has 0.1 and the median 0.8."""
    rows = pd.DataFrame(
        [
            {"patients": "like patients", "attack": attack, "share": share, "aggregator": name, "accuracy": a}
            for name, last in (("mean", 0.1), ("median", 0.8))
            for attack, share, a in [
                ("labels flipped", 0.0, 0.9),
                *((attack, 0.3, last) for attack in robustness.ATTACKS),
            ]
        ]
    )
    assert (robustness.spread(rows)["share"] == 0).sum() == 2 * len(robustness.ATTACKS)
    assert robustness.describe(rows).title == (
        "With 30\u00a0% of the hospitals hostile median has 80.0\u00a0% on average, mean 10.0\u00a0%; with "
        "none 90.0\u00a0% and 90.0\u00a0%"
    )
    assert len(robustness.cases(3, list(robustness.PATIENTS))) == 2 * 3 * 6 * (
        1 + 4 * len(robustness.ATTACKS)
    )
