"""The client state: the norms or head that a client keeps between rounds, while the rest is shared."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedmerge.federation.messages.networks import tensors_of
from fedmerge.federation.messages.tensors import Form, Tensors
from fedmerge.federation.plan.personal import Personal, personal_entries
from fedmerge.models.state import State, non_finite
from fedmerge.models.zoo import ModelSpec


class ClientState:
    """The personal entries of one hospital's model after its last round and after the one before.

    With both, a repeated round (asked again, or resumed after a crash) begins as it did the first time. It
    belongs to the hospital; ``state_dict`` makes it a plain ``State`` that can be kept over a restart.
    """

    def __init__(self) -> None:
        self.round = 0
        self._now: State = {}
        self._before: State = {}

    def recall(self, round: int) -> State:
        """Return the entries to begin ``round`` with; empty for a hospital that has not trained yet."""
        return self._before if round == self.round else self._now

    @property
    def latest(self) -> State:
        """The entries after the last round."""
        return self._now

    def keep(self, round: int, entries: Mapping[str, torch.Tensor]) -> None:
        """Keep the entries after a round. Does nothing if one of them is not finite."""
        if non_finite(entries):
            return
        if round != self.round:
            self.round, self._before = round, self._now
        self._now = {key: value.detach().cpu().clone() for key, value in entries.items()}

    def state_dict(self) -> State:
        """Return ``round``, ``now/KEY`` and ``before/KEY``; empty for a hospital that keeps nothing."""
        if not self.round:
            return {}
        kept = {"round": torch.tensor(self.round)}
        kept |= {f"now/{key}": value for key, value in self._now.items()}
        return kept | {f"before/{key}": value for key, value in self._before.items()}

    def load_state_dict(self, state: State) -> None:
        """Load a state from ``state_dict``; an empty one clears everything."""
        self.round = int(state["round"]) if state else 0
        self._now = _under("now/", state)
        self._before = _under("before/", state)


def client_state_tensors(spec: ModelSpec, personal: Personal) -> Tensors:
    """Return the schema of ``ClientState.state_dict``; after a first round there is no ``before``."""
    forms = tensors_of(spec).forms
    own = {key: forms[key] for key in personal_entries(spec, personal)}
    before = {f"before/{key}": form for key, form in own.items()}
    now = {f"now/{key}": form for key, form in own.items()}
    return Tensors({"round": Form("int64", ()), **now, **before}, frozenset(before), needed=False)


def _under(prefix: str, state: State) -> State:
    return {key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)}
