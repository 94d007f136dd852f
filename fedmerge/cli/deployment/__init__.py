"""``fedmerge deployment``: a file for each thing that people do with one; importing it adds its commands."""

from fedmerge.cli.deployment import approval, folders, identity, peers, running, watching

__all__ = ["approval", "folders", "identity", "peers", "running", "watching"]
