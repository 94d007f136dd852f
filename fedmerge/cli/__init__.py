"""The command line: ``fedmerge run``, ``bench``, ``merge``, ``deployment`` and the other commands."""

from fedmerge.cli import (
    analyse,
    bench,
    cohorts,
    commands,
    compare,
    deployment,
    doctor,
    merge,
    methods,
    models,
    new,
    report,
    results,
    serve,
    tune,
    verify,
)
from fedmerge.cli.app import app, main

__all__ = [
    "analyse", "app", "bench", "cohorts", "commands", "compare", "deployment", "doctor", "main", "merge",
    "methods", "models", "new", "report", "results", "serve", "tune", "verify",
]  # fmt: skip
