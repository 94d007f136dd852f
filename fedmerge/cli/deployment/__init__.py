"""``fedmerge deployment``: its commands, by task; importing a module adds its commands."""

from fedmerge.cli.deployment import approval, folders, identity, peers, running, watching

__all__ = ["approval", "folders", "identity", "peers", "running", "watching"]
