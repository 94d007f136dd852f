"""The client state: the norms or head that a client keeps between rounds, while the rest is shared."""

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


def personal_entries(spec: ModelSpec, personal: Personal) -> tuple[str, ...]:
    """Return the names of the entries of a network's state that stay in the hospital.

    norms: weights, biases, running statistics and counters of its batch-norm layers (FedBN, arXiv
    2102.07623); group and layer norms are shared like any other layer. head: the layer that turns features
    into logits (``fedmerge.models.heads``; FedPer, arXiv 1912.00818). Raises FedMergeError where the network
    has no batch norm, or no head that can be found.
    """
    plain = spec.model_copy(update={"pretrained": False})
    return _entries(plain.model_dump_json(), personal)


def client_state_tensors(spec: ModelSpec, personal: Personal) -> Tensors:
    """Return the schema of ``ClientState.state_dict``; after a first round there is no ``before``."""
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
