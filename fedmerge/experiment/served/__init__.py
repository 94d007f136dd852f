"""What ``fedmerge serve`` serves: the models of a run, of a folder, or of files, and how they are used."""

from fedmerge.experiment.served.places import Found, find_models
from fedmerge.experiment.served.samples import samples
from fedmerge.experiment.served.use import served

__all__ = ["Found", "find_models", "samples", "served"]
