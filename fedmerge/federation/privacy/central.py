"""Central differential privacy: each hospital's update is clipped, and the mean of the updates is noised.

What is protected is a hospital's whole contribution: whoever sees the global models of all rounds can hardly
tell whether it took part with its images or with nothing. The server is trusted and sees each update.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.models.state import State
from fedmerge.seeding import generator


class CentralPrivacy(BaseModel):
    """How updates are clipped and noised.

    clip: the longest that a hospital's update may be, as L2 norm over all weights. noise: the standard
    deviation of the noise on the sum of updates, in units of ``clip``. delta: the delta for which epsilon is
    told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clip: float = Field(gt=0)
    noise: float = Field(gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)


def private_mean(
    start: State, states: Iterable[State], options: CentralPrivacy, seed: int, round: int
) -> State:
    """``start + (sum_m d_m min(1, clip / |d_m|) + N(0, (noise clip)^2)) / n`` with ``d_m = state_m - start``.

    The mean of n updates is not weighted by images, so that no hospital counts for more than ``clip / n``
    (arXiv 1710.06963; here n is the number of updates there are). In float64, one state at a time; integer
    entries stay those of ``start``. The noise is drawn from (seed, "noise", round): whoever knows the seed
    can take it off again, so a model that is to be released needs a seed that is kept secret.

    Raises FedMergeError without a state.
    """
    start = {key: value.detach() for key, value in start.items()}
    floats = sorted(key for key, value in start.items() if value.is_floating_point())  # whatever their order
    total = {key: torch.zeros(start[key].shape, dtype=torch.float64) for key in floats}
    count = 0
    for state in states:  # a hospital may be training as this is drawn from
        update = {key: state[key].detach().double().cpu() - start[key].double().cpu() for key in floats}
        scale = min(1.0, options.clip / max(norm(update.values()), 1e-300))
        for key in floats:
            total[key].add_(update[key], alpha=scale)
        count += 1
        del state, update
    if not count:
        raise FedMergeError("there is no update to aggregate: at least one hospital must answer.")
    draws = generator(seed, "noise", round)
    new = dict(start)
    for key in floats:
        drawn = torch.randn(total[key].shape, generator=draws, dtype=torch.float64)
        mean = total[key].add_(drawn, alpha=options.noise * options.clip).div_(count)
        new[key] = (start[key].double() + mean.to(start[key].device)).to(start[key].dtype)
    return new


def norm(values: Iterable[Tensor]) -> float:
    """The L2 norm over all tensors, in float64."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in values))


def spending(options: CentralPrivacy, rounds: Mapping[str, int]) -> tuple[dict[str, Any], ...]:
    """What each hospital has spent after so many rounds of its own: rows with site, epsilon and delta."""
    known = {count: epsilon(options, count) for count in set(rounds.values())}
    return tuple(
        {"site": site, "epsilon": known[rounds[site]], "delta": options.delta} for site in sorted(rounds)
    )


def epsilon(options: CentralPrivacy, rounds: int) -> float:
    """Epsilon at ``options.delta`` for a hospital that took part in so many rounds; 0 for none.

    r Gaussian mechanisms of noise z compose to one of noise z / sqrt(r), whose privacy loss dp-accounting
    knows exactly (Balle and Wang, arXiv 1805.06530). Neighbours are federations in which one hospital's
    update is nothing. Who takes part in a round is on record, so drawing hospitals for a round amplifies
    nothing: what counts is in how many rounds a hospital was.

    Raises FedMergeError where dp-accounting is not installed.
    """
    if rounds == 0:
        return 0.0
    try:
        from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss
    except ImportError:
        raise FedMergeError(
            "federation.privacy needs the package dp-accounting: pip install 'fedmerge[privacy]'."
        ) from None
    loss = GaussianPrivacyLoss(options.noise / math.sqrt(rounds))

    def excess(epsilon: float) -> float:
        return float(loss.get_delta_for_epsilon(epsilon)) - options.delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    from scipy.optimize import brentq  # slow to import; hospitals do without

    return float(brentq(excess, 0.0, high, xtol=1e-9))
