"""How much of their initial values is still in a network's running statistics."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def initial_statistics(model: object) -> float:
    """Return the share of the initial running statistics (mean 0, variance 1) still in the batch norms.

    A step moves them by the momentum m, so after t steps (1 - m)^t is left: .01 leaves 37 % after 100, .1
    nothing. The largest over the network; with a cumulative mean it is 1 before the first step and 0 after.
    NaN for anything but a network with running statistics. Pretrained weights count the steps of their own
    training, where these are saved.
    """
    shares = []
    for norm in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(norm, _BatchNorm) and norm.running_var is not None:
            steps = 0 if norm.num_batches_tracked is None else int(norm.num_batches_tracked)
            momentum = norm.momentum
            shares.append(float(steps == 0) if momentum is None else (1 - momentum) ** steps)
    return max(shares, default=math.nan)
