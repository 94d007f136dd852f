"""A fusion method of one's own: a mean in which a hospital counts by a power of its number of images."""

import fedmerge as fm
from fedmerge.models import average


@fm.FUSION.method("by-size", title="Mean by a power of the hospitals' sizes")
def by_size(parents: fm.Parents, context: fm.Context, *, power: float = 0.5) -> fm.Merged:
    """theta = sum_m n_m^power theta_m / sum_m n_m^power, where n_m is the number of training images.

    power 1 is the mean over images, power 0 the mean over hospitals.
    """
    sizes = parents.examples or (1,) * len(parents)
    weights = [float(size) ** power for size in sizes]
    state = average(parents.states(), weights, batch_norm=context.batch_norm)
    coefficients = {name: w / sum(weights) for name, w in zip(parents.names, weights, strict=True)}
    return fm.Merged(parents.module(state), coefficients)
