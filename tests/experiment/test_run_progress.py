"""What a run tells of its progress is the share that is done, whatever it has to do again."""

import itertools

import fedmerge as fm
from fedmerge.experiment.interrupt import Stopped

ROUNDS, HOSPITALS = 2, 3


def told(given, **options):
    """(done, total) by stage, in the order in which they were told; ``stop`` raises at that many calls."""
    stages, stop = {}, options.pop("stop", None)

    def hear(text, done, total):
        if total:
            stages.setdefault(text.split(", ")[0], []).append((done, total))
        if stop is not None and text.startswith("seed 0: training,") and done >= stop:
            raise KeyboardInterrupt

    try:
        fm.run(given, progress=hear, **options)
    except Stopped:
        assert stop is not None
    return stages


def in_order(shares):
    return all(before <= after for before, after in itertools.pairwise(done for done, _ in shares))


def test_no_stage_is_more_than_whole_and_training_that_is_repeated_counts_once(experiment, tmp_path):
    """A hospital that is asked twice a round, a tuning and two streams; one stage each, none above its
    total, each ended at it. Where the hospitals are in rounds: i of n through is i/n of a round."""
    crash = {"kind": "crash", "site": "beta", "attempts": 1}
    rules = {"on_failure": "retry", "faults": [crash]}
    tune = {"option": "coefficients.temperature", "values": [1.0, 2.0]}
    tuned = {"method": "entropy-adaptive", "tune": tune}
    given = experiment | {"fusion": ["mean"], "testtime": [tuned], "federation": rules, "threads": 1}
    given |= {"diagnose": "off", "evaluation": {"batch_size": 16, "streams": ["iid", "temporal"]}}
    stages = told(given, out=tmp_path / "run", backend={"workers": 1})
    assert sum(name.endswith("at delta") for name in stages) >= 3
    assert any("tuning" in name for name in stages)
    for name, shares in stages.items():
        assert len({total for _, total in shares}) == 1, name
        assert in_order(shares), name
        assert "diagnosis" in name or "fusion" in name or shares[-1][0] == shares[-1][1], name
    training = stages["seed 0: training"]
    assert training[0] == (0, ROUNDS + 1)
    whole = {round(done * HOSPITALS) / HOSPITALS for done, _ in training}
    assert whole == {index / HOSPITALS for index in range(HOSPITALS * (ROUNDS + 1) + 1)}


def test_a_resumed_run_begins_at_the_share_that_is_done(experiment, tmp_path):
    given = experiment | {"fusion": ["mean"], "testtime": [], "threads": 1, "diagnose": "off"}
    told(given, out=tmp_path / "run", backend={"workers": 1}, stop=1.2)  # a round is done when it is kept
    training = told(given, resume=tmp_path / "run", backend={"workers": 1})["seed 0: training"]
    assert training[0] == (1, ROUNDS + 1)
    assert training[-1] == (ROUNDS + 1, ROUNDS + 1)
    assert in_order(training)
