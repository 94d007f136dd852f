"""One verdict for an analysis: the mean's own loss decides it, and no other sentence gives one."""

from __future__ import annotations

import random
import re

import pandas as pd
import pytest

from fedmerge.analysis.diagnosis import Finding, barriers, drift, features, heads, landscape, tasks, why
from fedmerge.analysis.diagnosis.why import COSTS, FAILS, MORE, NOTHING, VERDICTS, WORKS
from fedmerge.analysis.diagnosis.words import points, share

NAMES = ("a", "b", "c")
PAIRS = (("a", "b"), ("a", "c"), ("b", "c"))


def of_drift(angle: float = 84.0, retained: float = 0.74) -> Finding:
    pairs = pd.DataFrame([
        {"part": part, "first": first, "second": second, "angle": degrees}
        for part, degrees in (("encoder", 3.0), ("head", angle)) for first, second in PAIRS
    ])  # fmt: skip
    parts = pd.DataFrame({"part": ["encoder", "head"], "retained": [0.99, retained]})
    tables = {"parts": parts, "pairs": pairs}
    return Finding(tables, drift.sentence(tables), angle)


def of_barriers(
    models: float,
    mean: float,
    lost: float = 0.0,
    *,
    anew: float | None = None,
    commonest: float = 0.3,
    images: int = 10**6,
) -> Finding:
    """Three paths of one loss, the first 0.01 worse; anew: the mean's accuracy with batch norms anew."""
    frame = pd.DataFrame([
        {
            "first": first, "second": second, "end": "model", "norms": norms, "lost": lost - 0.01 * number,
            "models": models, "mean": reached, "best": models, "commonest": commonest, "images": images,
        }
        for norms, reached in (("kept", mean), ("anew", anew)) if reached is not None
        for number, (first, second) in enumerate(PAIRS)
    ])  # fmt: skip
    return Finding({"barriers": frame}, barriers.sentence(frame), lost)


def of_features(models: float, mean: float, ensemble: float, commonest: float = 0.3) -> Finding:
    frame = pd.DataFrame([
        {"models": count, "method": method, "accuracy": value, "commonest": commonest, "images": 10**6}
        for count in (2, 3)
        for method, value in (("members", models), ("mean", mean), ("ensemble-logits", ensemble))
    ])  # fmt: skip
    return Finding({"features": frame}, *features._said(frame))


def of_heads(own: float, other: float, moved: float, both: float, commonest: float = 0.3) -> Finding:
    names = (*NAMES, heads.MEAN)
    score = {(False, False): other, (True, False): moved, (False, True): both, (True, True): both}
    frame = pd.DataFrame([
        {
            "encoder": encoder, "head": head, "commonest": commonest, "images": 10**6,
            "accuracy": own if encoder == head != heads.MEAN
            else score[encoder == heads.MEAN, head == heads.MEAN],
        }
        for encoder in names for head in names
    ])  # fmt: skip
    return Finding({"heads": frame}, *heads._said(frame))


def of_landscape(best: float, mean: float) -> Finding:
    plane, marks = pd.DataFrame({"accuracy": [0.1, best]}), pd.DataFrame({"name": "mean", "accuracy": [mean]})
    return Finding({"plane": plane, "marks": marks}, *landscape._said(plane, marks, NAMES))


def of_neurons(mean: float, kf: float) -> Finding:
    return Finding({"neurons": pd.DataFrame(), "methods": pd.DataFrame({
        "method": ["mean", "kf"], "accuracy": [mean, kf],
    })}, "kf leaves 2 % unexplained.", 0.02)  # fmt: skip


def of_tasks(alone: float, merged: float, commonest: float) -> Finding:
    frame = pd.DataFrame({"task": "a", "method": ["alone", "mean"], "accuracy": [alone, merged]})
    return Finding({"tasks": frame}, *tasks._said(frame, ("mean",), commonest, 10**6))


def verdict_of(text: str) -> str:
    (found,) = [each for each in VERDICTS if each in text]
    return found


@pytest.mark.parametrize("seed", range(300))
def test_no_two_sentences_of_an_analysis_contradict_each_other(seed) -> None:
    """Whatever the numbers: one verdict, that of the mean's own loss, beside sentences without any."""
    draw = random.Random(seed)
    near = draw.choice([1.0, 0.1, 0.03])  # also where numbers are about as large as the thresholds
    value = lambda: 0.5 + near * (draw.random() - 0.5)  # noqa: E731
    commonest, models, mean, ensemble, kf = (value() for _ in range(5))
    source = {
        "features": of_features(models, mean, ensemble, commonest),
        "barriers": of_barriers(
            models, mean, value() - 0.5, anew=draw.choice([None, value()]), commonest=commonest
        ),
        "heads": of_heads(models, value(), value(), mean, commonest),
    }
    others = {
        "drift": of_drift(180 * draw.random(), draw.random()),
        "features": of_features(value(), value(), value(), commonest),
        "barriers": of_barriers(value(), value(), value() - 0.5, anew=value(), commonest=commonest),
        "heads": of_heads(value(), value(), value(), value(), commonest),
        "landscape": of_landscape(value(), value()),
        "neurons": of_neurons(mean, kf),
        "tasks": of_tasks(value(), value(), commonest),
    }
    for place, (name, first) in enumerate(source.items()):
        weaker = ["drift", "landscape", "neurons", "tasks", *list(source)[place + 1 :]]
        found = {name: first} | {each: others[each] for each in weaker if draw.random() < 0.7}
        text, best = why(found), max(models, mean, ensemble) if name == "features" else models
        said = verdict_of(text)
        lost = round(models - mean, 9)
        if best <= commonest + 0.02:
            assert said == NOTHING
        else:
            assert said in ((WORKS, MORE) if lost < 0.02 else (COSTS,) if lost < 0.1 else (FAILS,))
            assert said != WORKS or "over the mean" not in text
        assert f"{share(models)} accuracy, their mean {share(mean)}" in text
        for each in found.values():
            assert not re.search(r"averag(e|ed|ing)\b", each.sentence)
            assert not any(verdict in each.sentence for verdict in VERDICTS)


def test_what_is_measured_nearest_to_the_question_decides() -> None:
    """A path that loses 31 points beside a mean that loses none, and the other way round."""
    works = why({"drift": of_drift(), "barriers": of_barriers(0.9, 0.9, 0.31)})
    assert WORKS in works
    assert "although" in works
    assert f"84 degrees apart, although the path between them loses {points(0.31)}" in works
    fails = why({"barriers": of_barriers(0.9, 0.9, 0.0), "features": of_features(0.9, 0.6, 0.92)})
    assert FAILS in fails
    assert "ensemble" in fails
    assert "+32 points" in fails  # over the mean
    assert "90\u00a0% accuracy, their mean 60\u00a0%" in fails
    assert COSTS in why({"heads": of_heads(0.9, 0.5, 0.7, 0.85)})


@pytest.mark.parametrize(
    ("mean", "said"), [(0.9, WORKS), (0.881, WORKS), (0.88, COSTS), (0.85, COSTS), (0.8, FAILS), (0.3, FAILS)]
)
def test_the_loss_of_the_mean_decides(mean: float, said: str) -> None:
    assert verdict_of(why({"barriers": of_barriers(0.9, mean)})) == said


def test_only_what_gains_more_than_two_points_is_named_the_best_first() -> None:
    text = why({
        "features": of_features(0.9, 0.6, 0.91),
        "barriers": of_barriers(0.9, 0.6, anew=0.95),
        "neurons": of_neurons(0.6, 0.61),
    })  # fmt: skip
    assert text.index("batch norms measured anew +35 points") < text.index("ensemble of logits +31 points")
    assert "kf" not in text
    assert "nothing that was measured" in why({"features": of_features(0.9, 0.9, 0.9)})
    assert MORE in why({"features": of_features(0.9, 0.9, 0.95)})


def test_models_that_guess_decide_nothing_and_without_images_the_head_does() -> None:
    assert NOTHING in why({"barriers": of_barriers(0.31, 0.1, 0.2)})
    assert "weakens" in why({"drift": of_drift(retained=0.7)})
    assert "keeps" in why({"drift": of_drift(5.0, 0.99)})
    assert why({"neurons": of_neurons(0.5, 0.5)}) == ""


def test_few_images_are_said_and_a_lead_that_chance_gives_is_none() -> None:
    """Of 20 images one is 5 points, and of 50 % the standard error is 11: 60 % is not above it, 70 % is."""
    guessed = of_barriers(0.6, 0.3, commonest=0.5, images=20)
    assert NOTHING in why({"barriers": guessed})
    told = why({"barriers": of_barriers(0.7, 0.3, commonest=0.5, images=20)})
    assert FAILS in told
    assert "20 images" in told
    assert points(0.05) in told
    assert "Only" not in why({"barriers": of_barriers(0.7, 0.3, images=100)})


def test_tables_of_an_earlier_version_say_nothing_of_the_mean() -> None:
    frame = of_barriers(0.9, 0.5, 0.3).frame.drop(columns=["models", "mean", "best", "images"])
    old = {"drift": of_drift(retained=0.7), "barriers": Finding({"barriers": frame}, "", 0.3)}
    assert "weakens" in why(old)
