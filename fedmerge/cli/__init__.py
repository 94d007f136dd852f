"""The command line: ``fedmerge run | bench | report | results | methods | sites``, over the Python API."""

from fedmerge.cli import bench, commands, report, results
from fedmerge.cli.app import app, main

__all__ = ["app", "bench", "commands", "main", "report", "results"]
