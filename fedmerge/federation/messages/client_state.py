"""The client state: what a client keeps between rounds, its norms or head, or its control variate."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedmerge.federation.messages.networks import tensors_of
from fedmerge.federation.messages.tensors import Form, Tensors
from fedmerge.federation.plan.personal import Personal, parameters_of, personal_entries
from fedmerge.models.state import State, non_finite
from fedmerge.models.zoo import ModelSpec


class ClientState:
    """What one hospital kept after its last round and after the one before.

    Personal entries of its model, or its control variate. With both rounds, a repeated round (asked again, or
    resumed after a crash) begins as it did the first time. It belongs to the hospital; ``state_dict`` makes
    it a plain ``State`` that can be kept over a restart. began: the round after which it kept what it began
    the last one with, where the server says so; else None.
    """

    def __init__(self) -> None:
        self.round = 0
        self.began: int | None = None
        self._now: State = {}
        self._before: State = {}

    def recall(self, round: int) -> State:
        """Return the entries to begin ``round`` with; empty for a hospital that has not trained yet."""
        return self._before if round == self.round else self._now

    def after(self, round: int) -> State | None:
        """Return the entries as they were after ``round``; empty for round 0, None where they are lost."""
        if round in (self.round, self.began):
            return self._now if round == self.round else self._before
        return None if round else {}

    @property
    def latest(self) -> State:
        """The entries after the last round."""
        return self._now

    def keep(self, round: int, entries: Mapping[str, torch.Tensor], since: int | None = None) -> None:
        """Keep the entries after a round. Does nothing if one of them is not finite.

        since: the round began with those of ``after(since)``; None: with those of the hospital's last round.
        """
        if non_finite(entries):
            return
        if since is not None:
            self.round, self.began, self._before = round, since, self.after(since) or {}
        elif round != self.round:
            self.round, self._before = round, self._now
        self._now = {key: value.detach().cpu().clone() for key, value in entries.items()}

    def state_dict(self) -> State:
        """Return ``round``, ``now/KEY`` and ``before/KEY``; empty for a hospital that keeps nothing.

        And ``began``, where there is one.
        """
        if not self.round:
            return {}
        kept = {"round": torch.tensor(self.round)}
        kept |= {} if self.began is None else {"began": torch.tensor(self.began)}
        kept |= {f"now/{key}": value for key, value in self._now.items()}
        return kept | {f"before/{key}": value for key, value in self._before.items()}

    def load_state_dict(self, state: State) -> None:
        """Load a state from ``state_dict``; an empty one clears everything."""
        self.round = int(state["round"]) if state else 0
        self.began = int(state["began"]) if "began" in state else None
        self._now = _under("now/", state)
        self._before = _under("before/", state)


def client_state_tensors(spec: ModelSpec, personal: Personal, control: bool = False) -> Tensors:
    """Return the schema of ``ClientState.state_dict``; after a first round there is no ``before``.

    control: whether hospitals keep control variates; nothing is personal then.
    """
    forms = tensors_of(spec).forms
    own = {key: forms[key] for key in (parameters_of(spec) if control else personal_entries(spec, personal))}
    before = {f"before/{key}": form for key, form in own.items()}
    now = {f"now/{key}": form for key, form in own.items()}
    rounds = {name: Form("int64", ()) for name in (("round", "began") if control else ("round",))}
    return Tensors({**rounds, **now, **before}, frozenset(before), needed=False)


def _under(prefix: str, state: State) -> State:
    return {key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)}
