"""The command line: ``fedmerge run``, ``bench``, ``merge``, ``deployment`` and the other commands."""

from fedmerge.cli import bench, commands, deployment, merge, report, results, serve, tune, verify
from fedmerge.cli.app import app, main

__all__ = [
    "app",
    "bench",
    "commands",
    "deployment",
    "main",
    "merge",
    "report",
    "results",
    "serve",
    "tune",
    "verify",
]
