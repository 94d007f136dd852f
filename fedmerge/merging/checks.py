"""Checks of the parents that every fusion method relies on, and the order in which it sums them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fedmerge.errors import FedMergeError, short
from fedmerge.merging.methods import Context
from fedmerge.merging.parents import Parents, plain_form
from fedmerge.models.copies import faithful, fill, unwrapped
from fedmerge.models.entries import entries, kinds
from fedmerge.models.state import State, check_alike, non_finite, state_hash, without_wrappers

SMALL = 4096


def check_finite(parents: Parents) -> None:
    """Raise FedMergeError naming the model and the entry where a parent holds a NaN or an infinity.

    Every parent is read once, one at a time.
    """
    for name, state in zip(parents.names, parents.states(), strict=True):
        check_weights(name, state)


def check_weights(name: str, state: State) -> None:
    """Raise FedMergeError naming the model and the entry where a state holds a NaN or an infinity."""
    if broken := non_finite(state):
        raise FedMergeError(
            f"the weights of '{name}' hold NaN or infinity in '{broken[0]}' ({len(broken)} of {len(state)} "
            "entries): leave that model out, or train it again."
        )


def start_of(start: nn.Module | State | None, parents: Parents) -> State | None:
    """Return the state all models were trained from, in the (plain) form of the parents' states.

    Raises FedMergeError where it is not of their architecture, or no state at all.
    """
    if start is None:
        return None
    if not isinstance(start, nn.Module | Mapping):
        raise FedMergeError(
            f"start of a merge is {short(repr(start))}: give a network, or its state (entry -> tensor)."
        )
    state = entries(plain_form(unwrapped(start))) if isinstance(start, nn.Module) else _named(start, parents)
    kinds(state, "start")
    check_alike((parents.names[0], "start"), (parents.load(0), state))
    return state


def _named(state: State, parents: Parents) -> State:
    """A state dict under the parents' keys: without wrappers' prefixes, and plain."""
    state = {key: value for key, value in state.items() if str(key).rpartition(".")[2] != "_extra_state"}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise FedMergeError(
                f"start of a merge is no network's state: its entry '{key}' is a {type(value).__name__}, "
                "not a tensor."
            )
    state = {key: value.detach() for key, value in state.items()}
    if parents.given is None or state.keys() == parents.load(0).keys():
        return state
    inner = without_wrappers(state)
    if inner.keys() == entries(parents.given).keys():
        return entries(plain_form(fill(faithful(parents.given), inner)))
    return state


def shared_start(parents: Parents, context: Context, method: str) -> State:
    """The weights all parents were trained from, checked to be of the parents' architecture.

    Raises FedMergeError where they are not given, do not fit, or are not finite.
    """
    if context.start is None:
        raise FedMergeError(
            f"method '{method}' needs the weights from which all models were trained: pass start=."
        )
    check_alike(("start", parents.names[0]), (context.start, parents.load(0)))
    broken = non_finite(context.start)
    if broken:
        raise FedMergeError(
            f"the start holds NaN or infinity in '{broken[0]}': give the weights as they were."
        )
    return context.start


def summation_order(parents: Parents, weights: Sequence[float] | None = None) -> list[int]:
    """Return the models' indices in an order that depends on what they hold, not on the order given.

    Floating-point addition is not associative: summed in this order, the same models (with the same
    weights) give the same bits however they are permuted. The order is by the hash of a model's small
    floating entries (biases and norms, by which models differ as a rule), among equals by the hash of all
    floating entries, for which they are read whole, and among equals still by weight.
    """
    hashes = [_fingerprint(state, SMALL) for state in parents.states()]
    shared = {i for i, mark in enumerate(hashes) if hashes.count(mark) > 1}
    whole = [_fingerprint(parents.load(i), None) if i in shared else "" for i in range(len(parents))]
    ties = [0.0] * len(parents) if weights is None else weights
    return sorted(range(len(parents)), key=lambda i: (hashes[i], whole[i], ties[i]))


def _fingerprint(state: Mapping[str, Tensor], largest: int | None) -> str:
    return state_hash(
        {
            key: value
            for key, value in state.items()
            if _is_summed(value) and (largest is None or value.numel() <= largest)
        }
    )


def _is_summed(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()
