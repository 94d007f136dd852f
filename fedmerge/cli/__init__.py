"""The command line: ``fedmerge run | bench | merge | report | results | methods | sites | tune``."""

from fedmerge.cli import bench, commands, merge, report, results, tune
from fedmerge.cli.app import app, main

__all__ = ["app", "bench", "commands", "main", "merge", "report", "results", "tune"]
