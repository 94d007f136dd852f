"""The models that a node is given: what they must have in common, and whether the copies answer alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.copies import check_copy, fill, several, unwrapped
from fedmerge.models.entries import entries, kinds, refuse_complex
from fedmerge.models.modes import evaluating
from fedmerge.models.plain import dressed, plain, reparametrised
from fedmerge.models.sources import check_sources
from fedmerge.models.state import State, average, check_alike, check_fixed
from fedmerge.testtime.batch import taking


def networks(models: Sequence[nn.Module], method: str = "a test-time method") -> list[nn.Module]:
    """The networks inside ``DataParallel`` and ``torch.compile``, checked one by one.

    Raises FedMergeError for no model, or one for several, for what is no module, and for an entry for which
    no arithmetic is known (lazy, meta, quantised, sparse) or that is complex.
    """
    models = several(models)
    if not models:
        raise FedMergeError(f"{method} needs at least one model; none was given.")
    for index, model in enumerate(models):
        if not isinstance(model, nn.Module):
            raise FedMergeError(
                f"models[{index}] is a {type(model).__name__}; a node is made of networks (nn.Module): load "
                "the weights into one."
            )
    found = [unwrapped(model) for model in models]
    for name, model in zip(_names(found), found, strict=True):
        state = entries(plain(model) if reparametrised(model) else model)
        kinds(state, name)
        refuse_complex(state, method)
    return found


def agreeing(models: Sequence[nn.Module], named: Sequence[str] = ()) -> tuple[list[nn.Module], list[State]]:
    """The plain networks (``models.plain``) that may be merged, and their states.

    named: what errors call them. A network without reparametrised weights is the given one itself. Raises
    FedMergeError where they are not of one architecture, differ in what is not averaged (attributes,
    buffers that are not saved, integers), or a reparametrisation cannot hold a merged weight.
    """
    names = named or _names(models)
    found = [plain(model) if reparametrised(model) else model for model in models]
    states = [entries(model) for model in found]
    check_alike(names, states)
    try:
        check_sources(names, found)
    except FedMergeError as error:
        fault = str(error).partition(": it is not averaged")[0]
        raise FedMergeError(
            f"{fault}: it is not averaged, so a merged model would have to take one of them. Make it the "
            "same in all models, or weigh their predictions with entropy-weighted, which merges nothing."
        ) from None
    for key, kind in kinds(states[0], names[0]).items():
        for name, state in zip(names[1:], states[1:], strict=True):
            if kind == "fixed":
                check_fixed(key, names[0], states[0][key], name, state[key])
    if any(map(reparametrised, models)):
        dressed(models[0], average(states))
    return found, states


class Originals:
    """The caller's models, kept until the copies of them have been checked; a copy of a node has none.

    merged: whether the node puts the models' weights into one network, so that each must answer as before in
    the network of the first.
    """

    def __init__(self, models: Sequence[nn.Module], *, merged: bool) -> None:
        self.models = list(models)
        self.marks = [_mark(model) for model in models]
        self.merged = merged

    def check(self, batch: Tensor, copy: Callable[[int], nn.Module | None]) -> None:
        """Compare each model with the node's ``copy`` of it, where it has one, on two images of a batch.

        Models that were changed since, or are elsewhere or of another dtype than the images, are passed over.
        Raises FedMergeError naming a model whose copy answers otherwise or runs parts of the model itself, or
        one that cannot take the images.
        """
        if not self.models:
            return
        images = batch[:2]
        first = self._same(0, images)
        template = plain(first) if self.merged and first is not None else None
        for index in range(len(self.models)):
            original, own, name = self._same(index, images), copy(index), f"models[{index}]"
            if original is None:
                continue
            with taking(batch, name):
                check_copy(original, original if own is None else own, images, name)
                _check_apart(original, template if own is None else own, images, name)
                if template is not None:
                    _check_merged(original, template, images, name)

    def _same(self, index: int, images: Tensor) -> nn.Module | None:
        model = self.models[index]
        if self.marks[index] is None or _mark(model) != self.marks[index]:
            return None
        there = next(model.parameters(), images)
        return model if (there.device, there.dtype) == (images.device, images.dtype) else None

    def __deepcopy__(self, memo: Any) -> Originals:
        return Originals([], merged=self.merged)

    def __getstate__(self) -> dict[str, Any]:
        return vars(Originals([], merged=self.merged))


@torch.no_grad()
def _check_apart(original: nn.Module, copy: nn.Module | None, images: Tensor, name: str) -> None:
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, place=place: ran.append(place))
        for place, module in original.named_modules()
    ]
    try:
        if copy is not None:
            with evaluating(copy):
                copy(images)
    finally:
        for handle in handles:
            handle.remove()
    if ran:
        raise FedMergeError(
            f"a copy of '{name}' runs '{ran[0] or name}' of '{name}' itself, so it would follow it: a "
            "forward pass or a hook holds it from outside. Let it take its parts from self."
        )


def _check_merged(original: nn.Module, template: nn.Module, images: Tensor, name: str) -> None:
    fill(template, entries(plain(original) if reparametrised(original) else original))
    try:
        check_copy(original, template, images, name)
    except FedMergeError:
        raise FedMergeError(
            f"'{name}' does not answer as before when its weights are in the network of 'models[0]': they "
            "differ in something that is not averaged (a hook, an object in an attribute). Make it the same "
            "in all models, or weigh their predictions with entropy-weighted, which merges nothing."
        ) from None


@torch.no_grad()
def _mark(model: nn.Module) -> list[tuple[int, int]] | None:
    """Return a mark that changes when a model's tensors are written to or moved; None if there is none."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(value.is_inference() for value in tensors):
        return None
    return [(value.data_ptr(), value._version) for value in tensors]


def _names(models: Sequence[nn.Module]) -> list[str]:
    return [f"models[{index}]" for index in range(len(models))]
