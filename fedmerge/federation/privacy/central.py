"""Central differential privacy: each hospital's update is clipped, and the mean of the updates is noised.

What is protected is a hospital's whole contribution: whoever sees the global models of all rounds can hardly
tell whether it took part with its images or with nothing. The server is trusted and sees each update. What
the epsilon of ``accounting`` does not cover is said there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fedmerge.errors import FedMergeError
from fedmerge.federation.privacy.noise import Draw, from_the_system, noised, shortened, step_of
from fedmerge.federation.privacy.options import AdaptivePrivacy, CentralPrivacy
from fedmerge.models.state import State


@dataclass(frozen=True)
class Released:
    """What may leave the server after a round: the model, and the clip of the next round."""

    state: State
    clip: float


def private_mean(
    start: State,
    states: Iterable[State],
    options: CentralPrivacy | AdaptivePrivacy,
    asked: int,
    clip: float,
    draw: Draw = from_the_system,
) -> Released:
    """``start + (sum_m d_m min(1, clip / |d_m|) + N(0, (noise clip)^2)) / asked``, d_m = state_m - start.

    The mean is not weighted by images, and its denominator is the number of hospitals that were asked, which
    no hospital's data changes (the fixed denominator of arXiv 1710.06963). So one hospital, whatever its
    update is, and whether it comes at all, moves the sum by at most ``clip``. Divided by those that answered,
    it would move it by up to twice that: its failure makes all others count for more. The price is that a
    round with failures steps less far. Hospital and round are public, and so is ``asked``.

    An update that is not finite counts as nothing; a huge one is shortened like any other. In float64, one
    state at a time, and integers from there (``noise``); integer entries stay those of ``start``. With an
    adaptive clip the number of updates within it is noised as well and moves the next clip; each counts
    +1/2 or -1/2, so that one hospital is 1/2.

    Flower's adaptive wrapper is not used: its bit says that an update was clipped where the paper's says that
    it was not (1.42), so that its clip runs away from the quantile; and its noise is numpy's.

    asked: how many hospitals were. clip: of this round. Raises FedMergeError without a state.
    """
    start = {key: value.detach() for key, value in start.items()}
    floats = sorted(key for key, value in start.items() if value.is_floating_point())  # whatever their order
    on_updates = options.noise if isinstance(options, CentralPrivacy) else options.on_updates(asked)
    step = step_of(on_updates * clip, clip)
    total = {key: torch.zeros(start[key].shape, dtype=torch.int64) for key in floats}
    count, balance = 0, 0
    for state in states:  # a hospital may be training as this is drawn from
        update = {key: state[key].detach().double().cpu() - start[key].double().cpu() for key in floats}
        short, within = shortened(update, clip, step)
        for key in floats:
            total[key].add_(short[key])
        count, balance = count + 1, balance + (1 if within else -1)
        del state, update, short
    if not count:
        raise FedMergeError("there is no update to aggregate: at least one hospital must answer.")
    if count > asked:
        raise ValueError(f"{count} updates of {asked} hospitals")
    new = dict(start)
    for key, value in noised(total, on_updates * clip, step, draw).items():
        change = value.div_(asked).to(start[key].device)
        new[key] = (start[key].double() + change).to(start[key].dtype)
    if isinstance(options, CentralPrivacy):
        return Released(new, clip)
    return Released(new, options.next_clip(clip, _share(balance, asked, options, draw)))


def _share(balance: int, asked: int, options: AdaptivePrivacy, draw: Draw) -> float:
    """The noised share of updates within the clip; balance: how many are, less how many are not."""
    deviation = 2 * options.on_count(asked)  # a balance is twice a centred count
    step = step_of(deviation, 1.0)
    whole = {"balance": torch.tensor([round(balance / step)])}
    (value,) = noised(whole, deviation, step, draw).values()
    return 0.5 + float(value) / (2 * asked)
