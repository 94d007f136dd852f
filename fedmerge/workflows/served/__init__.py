"""What ``fedmerge serve`` serves: the models of a run, of a folder, or of files, and how they are used."""

from fedmerge.workflows.served.places import Found, find_models
from fedmerge.workflows.served.samples import samples
from fedmerge.workflows.served.use import served

__all__ = ["Found", "find_models", "samples", "served"]
