"""The command line: ``fedmerge run | bench | merge | report | results | methods | sites``."""

from fedmerge.cli import bench, commands, merge, report, results
from fedmerge.cli.app import app, main

__all__ = ["app", "bench", "commands", "main", "merge", "report", "results"]
