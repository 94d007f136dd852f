"""``fedmerge deployment``: a file for each thing that people do with one; importing it adds its commands."""

from fedmerge.cli.deployment import folders, identity, running

__all__ = ["folders", "identity", "running"]
