"""Study: the experiment. Config in, table and report out."""

from fedmerge.study.config import Experiment, read_experiment
from fedmerge.study.results import Result
from fedmerge.study.run import run

__all__ = ["Experiment", "Result", "read_experiment", "run"]
