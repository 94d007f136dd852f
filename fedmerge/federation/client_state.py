"""A client's state between rounds: its own norms or head, in a model that is else shared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.errors import FedMergeError
from fedmerge.federation.schema.networks import tensors_of
from fedmerge.federation.schema.tensors import Form, Tensors
from fedmerge.models.heads import find_head, group_of
from fedmerge.models.state import State, non_finite
from fedmerge.models.zoo import ModelSpec, build

Personal = Literal["none", "norms", "head"]


class ClientState:
    """The personal entries of one hospital's model, as they were after its last round and the one before.

    With both, a round that is repeated (asked again, or resumed after a crash) begins as it began the first
    time. It lives on the hospital's side and is a plain ``State`` for whoever keeps it over a restart.
    """

    def __init__(self) -> None:
        self.round = 0
        self._now: State = {}
        self._before: State = {}

    def recall(self, round: int) -> State:
        """The entries to begin ``round`` with: empty for a hospital that has not trained yet."""
        return self._before if round == self.round else self._now

    @property
    def latest(self) -> State:
        """The entries after the last round."""
        return self._now

    def keep(self, round: int, entries: Mapping[str, torch.Tensor]) -> None:
        """Keep what a round made of them. Numbers that are not finite are not kept, nor is the round."""
        if non_finite(entries):
            return
        if round != self.round:
            self.round, self._before = round, self._now
        self._now = {key: value.detach().cpu().clone() for key, value in entries.items()}

    def state_dict(self) -> State:
        """All of it: ``round``, ``now/KEY``, ``before/KEY``; empty for a hospital that keeps nothing."""
        if not self.round:
            return {}
        kept = {"round": torch.tensor(self.round)}
        kept |= {f"now/{key}": value for key, value in self._now.items()}
        return kept | {f"before/{key}": value for key, value in self._before.items()}

    def load_state_dict(self, state: State) -> None:
        """Take back what ``state_dict`` gave; an empty state forgets everything."""
        self.round = int(state["round"]) if state else 0
        self._now = _under("now/", state)
        self._before = _under("before/", state)


def personal_entries(spec: ModelSpec, personal: Personal) -> tuple[str, ...]:
    """The entries of a network's state that stay in the hospital.

    norms: weights, biases, running statistics and counters of its batch-norm layers (FedBN, arXiv
    2102.07623); group and layer norms are shared like any other layer. head: the layer that turns features
    into logits (``fedmerge.models.heads``; FedPer, arXiv 1912.00818). Raises FedMergeError where the network
    has no batch norm, or no head that can be found.
    """
    plain = spec.model_copy(update={"pretrained": False})
    return _entries(plain.model_dump_json(), personal)


def client_state_tensors(spec: ModelSpec, personal: Personal) -> Tensors:
    """The arrays of ``ClientState.state_dict``; of a first round, there is no ``before``."""
    forms = tensors_of(spec).forms
    own = {key: forms[key] for key in personal_entries(spec, personal)}
    before = {f"before/{key}": form for key, form in own.items()}
    now = {f"now/{key}": form for key, form in own.items()}
    return Tensors({"round": Form("int64", ()), **now, **before}, frozenset(before), needed=False)


@lru_cache(maxsize=8)
def _entries(spec: str, personal: Personal) -> tuple[str, ...]:
    if personal == "none":
        return ()
    known = ModelSpec.model_validate_json(spec)
    model = build(known, 0)
    if personal == "head":
        head = find_head(model, torch.zeros(2, known.in_channels, known.image_size, known.image_size))
        return tuple(key for key in model.state_dict() if group_of(key, head) == "head")
    layers = {name for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    found = tuple(key for key in model.state_dict() if key.rpartition(".")[0] in layers)
    if not found:
        raise FedMergeError(
            f"personal: norms keeps batch-norm layers in the hospitals, but model '{known.name}' has none: "
            "choose a model with batch norm, personal: head, or personal: none."
        )
    return found


def _under(prefix: str, state: State) -> State:
    return {key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)}
