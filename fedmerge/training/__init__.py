"""A hospital's local training: a few epochs of gradient steps from the model it was sent.

``fit`` is the whole loop; ``InMerge`` (In-Model Merging, arXiv 2502.20516) can follow the steps of this
loop or of any other.
"""

from fedmerge.training.augment import AUGMENTATIONS, Augmentation, augment
from fedmerge.training.checks import needs_batch_statistics
from fedmerge.training.inmerge import InMerge
from fedmerge.training.inmerge_options import InMergeOptions
from fedmerge.training.local import FitResult, Segment, TrainingDiverged, fit
from fedmerge.training.options import TrainingOptions
from fedmerge.training.schedule import learning_rates

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "FitResult",
    "InMerge",
    "InMergeOptions",
    "Segment",
    "TrainingDiverged",
    "TrainingOptions",
    "augment",
    "fit",
    "learning_rates",
    "needs_batch_statistics",
]
