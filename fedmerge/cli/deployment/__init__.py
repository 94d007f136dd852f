"""``fedmerge deployment``: a file for each thing that people do with one; importing it adds its commands."""

from fedmerge.cli.deployment import folders, running, watching

__all__ = ["folders", "running", "watching"]
