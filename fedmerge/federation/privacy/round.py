"""The server's side of private rounds: one noised mean a round, and what was spent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fedmerge.federation.privacy.accounting import Options, Spending
from fedmerge.federation.privacy.central import private_mean
from fedmerge.federation.privacy.noise import Draw, from_the_seed, from_the_system
from fedmerge.federation.privacy.options import AdaptivePrivacy, LocalPrivacy
from fedmerge.models.state import State, state_hash

_CLIP = "privacy/clip"


class PrivateRounds:
    """The privacy of a run's rounds: its options, the clip it has come to, and the record of releases."""

    def __init__(self, options: Options, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.spending = Spending(options)
        self.clip = options.clip
        self.asked: Sequence[str] = ()
        self._used = self.clip

    @property
    def central(self) -> bool:
        """Whether it is the server that adds the noise."""
        return not isinstance(self.options, LocalPrivacy)

    def mean(self, round: int, sent: State, states: Iterable[State], asked: int) -> State:
        """The noised mean of a round's updates. Each call draws: its result is released or thrown away."""
        assert not isinstance(self.options, LocalPrivacy)
        draw: Draw = from_the_system
        if self.options.simulate:
            draw = from_the_seed(self.seed, "noise", round)
        found = private_mean(sent, states, self.options, asked, self.clip, draw)
        self._used, self.clip = self.clip, found.clip
        return found.state

    def rows(self, asked: Sequence[str]) -> list[dict[str, Any]]:
        """For the history, once the round's answers are in: what each hospital has spent with its release.

        asked: the hospitals of the round. With an adaptive clip also that of the round, which is noised, too.
        """
        self.asked = asked
        rows = self.spending.rows(asked)
        if isinstance(self.options, AdaptivePrivacy):
            rows = [row | {"clip": self._used} for row in rows or [{"site": site} for site in asked]]
        return rows

    def released(self, round: int, state: State) -> None:
        """Put the round's release on record; call it before the model leaves."""
        self.spending.released(round, self.asked, state_hash(state))

    def state_dict(self) -> State:
        """What the next round must know: an adaptive clip."""
        adaptive = isinstance(self.options, AdaptivePrivacy)
        return {_CLIP: torch.tensor(self.clip, dtype=torch.float64)} if adaptive else {}

    def load_state_dict(self, state: State) -> State:
        """Take back what ``state_dict`` gave; returns the rest, which is not of this."""
        if _CLIP in state:
            self.clip = float(state[_CLIP])
        return {key: value for key, value in state.items() if key != _CLIP}
