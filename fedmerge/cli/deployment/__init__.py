"""``fedmerge deployment``: a file for each thing that people do with one; importing it adds its commands."""

from fedmerge.cli.deployment import approval, folders, identity, running

__all__ = ["approval", "folders", "identity", "running"]
