"""Central differential privacy: each hospital's update is clipped, and the mean of the updates is noised.

A hospital's whole contribution is protected: whoever sees the global models of all rounds can hardly tell
whether it took part with its images or with nothing. The server is trusted and sees each update.
``accounting`` lists what its epsilon does not cover.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fedmerge.errors import FedMergeError
from fedmerge.federation.plan.privacy import AdaptivePrivacy, CentralPrivacy
from fedmerge.federation.privacy.noise import Draw, from_the_system, noised, shortened, step_of
from fedmerge.models.state import State


@dataclass(frozen=True)
class Released:
    """The release of a round: the model, and the clip of the next round."""

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
    """Return ``start + (sum_m d_m min(1, clip / |d_m|) + N(0, (noise clip)^2)) / asked``.

    d_m = state_m - start. The mean is not weighted by images, and its denominator is the number of hospitals
    that were asked, which no hospital's data changes (the fixed denominator of arXiv 1710.06963). So one
    hospital, whatever its update is, and whether it comes at all, moves the sum by at most ``clip``. Divided
    by the number of replies, it would move it by up to twice that: its failure makes all others count for
    more. The price is that a round with failures steps less far. Hospital and round are public, and so is
    ``asked``.

    An update that is not finite counts as nothing; a huge one is shortened like any other. In float64, one
    state at a time, and integers from there (``noise``); integer entries stay those of ``start``. With an
    adaptive clip the number of updates within it is noised as well and moves the next clip; each counts
    +1/2 or -1/2, so that one hospital is 1/2.

    Flower's adaptive wrapper is not used: its bit means that an update was clipped, the paper's that it was
    not (1.42), so its clip runs away from the quantile; and its noise is numpy's.

    asked: the number of hospitals asked. clip: of this round. Raises FedMergeError without a state.
    """
    start = {key: value.detach() for key, value in start.items()}
    floats = sorted(key for key, value in start.items() if value.is_floating_point())  # any order of keys
    on_updates = options.noise if isinstance(options, CentralPrivacy) else options.on_updates(asked)
    step = step_of(on_updates * clip, clip)
    total = {key: torch.zeros(start[key].shape, dtype=torch.int64) for key in floats}
    count, balance = 0, 0
    for state in states:  # lazy: a hospital may still be training
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
    """Return the noised share of updates within the clip. balance: those within minus those not."""
    deviation = 2 * options.on_count(asked)  # a balance is twice a centred count
    step = step_of(deviation, 1.0)
    whole = {"balance": torch.tensor([round(balance / step)])}
    (value,) = noised(whole, deviation, step, draw).values()
    return 0.5 + float(value) / (2 * asked)
