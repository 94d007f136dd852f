"""The command line: ``fedmerge run | methods | sites``. A thin shell over the Python API."""

from fedmerge.cli import commands
from fedmerge.cli.app import app, main

__all__ = ["app", "commands", "main"]
