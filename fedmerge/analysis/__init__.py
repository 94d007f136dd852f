"""Analysis: pure functions from predictions, models and tables to numbers; it only looks.

``scores`` and ``reliability`` judge predictions (``METRICS`` holds the metrics), ``answers`` counts them by
class, ``fit_temperature`` calibrates. ``learning`` tells a level from guessing, ``ranking_metric`` gives the
score to rank by. From a table of results, ``leaderboard``, ``cells`` and ``by_site`` compare levels on clean
images, ``severity_curve`` and ``robustness`` under scanner shift, and ``select`` chooses by validation
scores. ``crossed_interval`` gives the intervals, ``interval_rule`` describes them.
"""

from fedmerge.analysis.calibration import fit_temperature
from fedmerge.analysis.chance import Answers, answers, learning, learning_at, ranking_metric, uneven
from fedmerge.analysis.comparison import by_site, cells, difference, interval_rule, leaderboard
from fedmerge.analysis.intervals import Interval, crossed_interval
from fedmerge.analysis.metrics import METRICS, Metric, Predictions, rates, reliability, scores
from fedmerge.analysis.robustness import robustness, severity_curve
from fedmerge.analysis.selection import select

__all__ = [
    "METRICS",
    "Answers",
    "Interval",
    "Metric",
    "Predictions",
    "answers",
    "by_site",
    "cells",
    "crossed_interval",
    "difference",
    "fit_temperature",
    "interval_rule",
    "leaderboard",
    "learning",
    "learning_at",
    "ranking_metric",
    "rates",
    "reliability",
    "robustness",
    "scores",
    "select",
    "severity_curve",
    "uneven",
]
