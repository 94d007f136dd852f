"""The command line: ``fedmerge run | methods | sites``. A thin shell over the Python API."""

from fedmerge.cli.commands import app, main

__all__ = ["app", "main"]
