"""Trackers: programs that are told of a run or a study. ``TRACKERS`` holds them; none is on by default.

``contract`` is their interface. Each adapter is one file and needs an extra of its name.
"""

from fedmerge.trackers import mlflow, tensorboard, wandb
from fedmerge.trackers.contract import TRACKERS, Tracker, flat, scalars

__all__ = ["TRACKERS", "Tracker", "flat", "mlflow", "scalars", "tensorboard", "wandb"]
