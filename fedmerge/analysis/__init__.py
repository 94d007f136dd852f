"""Analysis: pure functions from predictions, models and batches to numbers; it only looks."""

from fedmerge.analysis.metrics import Scores, scores

__all__ = ["Scores", "scores"]
