"""The server's side of private rounds: one noised mean per round, and the privacy spent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fedmerge.federation.plan.privacy import AdaptivePrivacy, LocalPrivacy
from fedmerge.federation.privacy.accounting import Options, Spending
from fedmerge.federation.privacy.central import private_mean
from fedmerge.federation.privacy.noise import Draw, from_the_seed, from_the_system
from fedmerge.models.state import State, state_hash

_CLIP = "privacy/clip"


class PrivateRounds:
    """The privacy of a run's rounds: its options, the current clip, and the record of releases."""

    def __init__(self, options: Options, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.spending = Spending(options)
        self.clip = options.clip
        self.asked: Sequence[str] = ()
        self._used = self.clip

    @property
    def central(self) -> bool:
        """Whether the server adds the noise."""
        return not isinstance(self.options, LocalPrivacy)

    def mean(self, round: int, sent: State, states: Iterable[State], asked: int) -> State:
        """Return the noised mean of a round's updates. Each call draws new noise: release or discard it."""
        assert not isinstance(self.options, LocalPrivacy)
        draw: Draw = from_the_system
        if self.options.simulate:
            draw = from_the_seed(self.seed, "noise", round)
        found = private_mean(sent, states, self.options, asked, self.clip, draw)
        self._used, self.clip = self.clip, found.clip
        return found.state

    def rows(self, asked: Sequence[str]) -> list[dict[str, Any]]:
        """Return history rows of what each hospital has spent with the round's release, after its replies.

        asked: the hospitals of the round. With an adaptive clip also the round's clip, which is noised, too.
        """
        self.asked = asked
        rows = self.spending.rows(asked)
        if isinstance(self.options, AdaptivePrivacy):
            rows = [row | {"clip": self._used} for row in rows or [{"site": site} for site in asked]]
        return rows

    def released(self, round: int, state: State) -> None:
        """Record the round's release; call it before the model leaves."""
        self.spending.released(round, self.asked, state_hash(state))

    def state_dict(self) -> State:
        """Return the adaptive clip of the next round; empty with a fixed one."""
        adaptive = isinstance(self.options, AdaptivePrivacy)
        return {_CLIP: torch.tensor(self.clip, dtype=torch.float64)} if adaptive else {}

    def load_state_dict(self, state: State) -> State:
        """Load a state from ``state_dict``; return the entries that are not its own."""
        if _CLIP in state:
            self.clip = float(state[_CLIP])
        return {key: value for key, value in state.items() if key != _CLIP}
