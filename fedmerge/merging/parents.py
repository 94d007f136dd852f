"""The models to be merged, in memory or in a pool on disk, read one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.cards import check_cards
from fedmerge.models.copies import check_copy, check_self_contained, faithful, fill, unwrapped
from fedmerge.models.entries import entries, kinds
from fedmerge.models.loading import network_of
from fedmerge.models.plain import dressed, plain, reparametrised
from fedmerge.models.pool import ModelPool
from fedmerge.models.sources import check_sources, check_states
from fedmerge.models.state import State, check_alike
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.tasks import TASKS, Task, task_of


@dataclass(frozen=True)
class Parents:
    """The models to be merged: M states of one architecture, read when asked for.

    names: one name a model. load: returns the state of model i. architecture: of the model to be made, a
    module, which is never changed, or a specification. examples: training images behind each model, where
    known. modules: the models themselves, where they are in memory and may differ in width; of models with
    reparametrised weights (``models.plain``) their plain forms. sources: the models as they were given, and
    given: the module whose form the merged one gets. specs: of each model, where they are in a pool.
    chosen: whether the architecture was given apart (``into``), so that it says what is not averaged; fixed:
    its integers and booleans, which then stand in every state.
    """

    names: tuple[str, ...]
    load: Callable[[int], State]
    architecture: nn.Module | ModelSpec
    examples: tuple[int, ...] | None = None
    modules: tuple[nn.Module, ...] = ()
    sources: tuple[nn.Module, ...] = ()
    given: nn.Module | None = None
    specs: tuple[ModelSpec, ...] = ()
    chosen: bool = False
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    any_width: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def template(self) -> nn.Module:
        """A module of the architecture of the model to be made, never to be changed."""
        if isinstance(self.architecture, nn.Module):
            return self.architecture
        return network_of(self.architecture, self.load(0), self.names[0])

    @property
    def task(self) -> Task:
        """What the outputs of the models mean."""
        made = self.architecture
        return TASKS[made.task] if isinstance(made, ModelSpec) else task_of(made)

    def states(self, indices: Sequence[int] | None = None) -> Iterator[State]:
        """Yield the states one at a time, all of them or those at ``indices``."""
        for index in range(len(self)) if indices is None else indices:
            yield self.load(index)

    def network(self, index: int) -> nn.Module:
        """Model ``index`` as a module, never to be changed: the one given (plain), or that of its card."""
        return self.modules[index] if self.modules else self.copy(index)

    def copy(self, index: int, images: Tensor | None = None) -> nn.Module:
        """Model ``index`` (plain) as a module of its own, in eval mode: all of it, not only its weights.

        Where there are images, it must answer on two of them as its original: the model given, or, of a pool,
        a network that is built as always and not lazily. Raises FedMergeError where it does not.
        """
        if self.modules:
            return self._checked(index, faithful(self.modules[index]), self.modules[index], images)
        made = network_of(self.specs[index], self.load(index), self.names[index])
        if images is None:
            return made
        return self._checked(index, made, fill(build(self.specs[index], seed=0), self.load(index)), images)

    def member(self, index: int, images: Tensor | None) -> nn.Module:
        """:meth:`copy`, but in the form in which the model was given, on the device of the merged model."""
        if not self.sources:
            return self.copy(index, images)
        made = self._checked(index, faithful(self.sources[index]), self.sources[index], images)
        home = next(self.template.parameters(), None)
        return made if home is None else made.to(home.device)

    def _checked(self, index: int, made: nn.Module, original: nn.Module, images: Tensor | None) -> nn.Module:
        if images is not None:
            check_copy(original, made, images, self.names[index])
        return made

    def module(self, state: State) -> nn.Module:
        """A new (plain) module of the architecture that holds a copy of ``state``, in eval mode.

        Raises FedMergeError where the models differ in what no state holds: see :meth:`agree`.
        """
        self.agree()
        if isinstance(self.architecture, ModelSpec):
            return network_of(self.architecture, state, self.names[0])
        return fill(faithful(self.architecture), {**state, **self.fixed})

    def finished(self, module: nn.Module, fitted: bool) -> nn.Module:
        """A merged module in the form of the models given; fitted: its weights must be held as they are."""
        if not self.reparametrised:
            return module
        assert self.given is not None
        return dressed(self.given, entries(module), exactly=fitted)

    @property
    def reparametrised(self) -> bool:
        """Whether the models' weights are not plain ones, so that ``modules`` are not the models given."""
        return self.given is not None and self.given is not self.architecture

    @property
    def plain_states(self) -> bool:
        """Whether the states are those that the models given can load."""
        given = self.given
        return given is None or given.state_dict().keys() == self.load(0).keys()

    def agree(self) -> None:
        """Raise FedMergeError where models differ in what is not averaged: a merge would have to choose."""
        return self._agreed

    @cached_property
    def _agreed(self) -> None:
        if not self.modules:
            return
        if not self.chosen:
            shapes = [{key: value.shape for key, value in state.items()} for state in self.states()]
            check_sources(self.names, self.modules, any_width=any(form != shapes[0] for form in shapes))
        check_states(self.names, list(self.states()), self.template)

    def among(self, indices: Sequence[int]) -> Parents:
        """Some of the models, in this order."""
        return replace(
            self,
            names=tuple(self.names[i] for i in indices),
            load=lambda j: self.load(indices[j]),
            examples=self.examples and tuple(self.examples[i] for i in indices),
            modules=self.modules and tuple(self.modules[i] for i in indices),
            sources=self.sources and tuple(self.sources[i] for i in indices),
            specs=self.specs and tuple(self.specs[i] for i in indices),
        )

    @classmethod
    def of(
        cls,
        models: Sequence[nn.Module] | ModelPool,
        names: Sequence[str] | None = None,
        examples: Sequence[int] | None = None,
        *,
        into: nn.Module | None = None,
        any_width: bool = False,
    ) -> Parents:
        """Parents from modules in memory or from a pool on disk.

        into: the architecture of the model to be made (default: the first model's). any_width: models may
        have layers of other widths. Raises FedMergeError if there are none, if names, examples and models
        differ in number, if the models are not of one architecture (keys, shapes, dtypes), if an entry cannot
        be merged (``models.entries``), or if no copy can be independent of its model
        (``check_self_contained``).
        """
        if len(models) == 0:
            raise FedMergeError("there is no model to merge: give at least one.")
        counts = None if examples is None else tuple(examples)
        if counts is not None and len(counts) != len(models):
            raise FedMergeError(f"{len(counts)} examples= were given for {len(models)} models: one each.")
        for count in counts or ():
            if not (math.isfinite(count) and count >= 0):
                raise FedMergeError(f"examples= has {count}, which is no number of training images.")
        if isinstance(models, ModelPool):
            return _of_pool(models, counts, into, any_width)
        return _of_modules(models, names, counts, into, any_width)


def _of_pool(
    pool: ModelPool, examples: tuple[int, ...] | None, into: nn.Module | None, any_width: bool
) -> Parents:
    cards = [pool.card(name) for name in pool.names]
    if into is None:
        check_cards(cards)
    elif not any_width:
        check_alike((pool.names[0], "the model to be made"), (pool.state(pool.names[0]), into.state_dict()))
    return Parents(
        tuple(pool.names),
        lambda i: pool.state(pool.names[i]),
        cards[0].model if into is None else into,
        examples,
        specs=tuple(card.model.untrained() for card in cards),
        chosen=into is not None,
        any_width=any_width,
    )


def _of_modules(
    models: Sequence[nn.Module],
    names: Sequence[str] | None,
    examples: tuple[int, ...] | None,
    into: nn.Module | None,
    any_width: bool,
) -> Parents:
    labels = tuple(names) if names is not None else tuple(f"model-{i}" for i in range(len(models)))
    if len(labels) != len(models):
        raise FedMergeError(f"{len(labels)} names were given for {len(models)} models: give one name each.")
    if len(set(labels)) != len(labels):
        raise FedMergeError(f"two models have one name ({', '.join(labels)}): give each its own.")
    every = (*labels, "the model to be made")
    sources = [_network(*pair) for pair in zip(every, [*models, *([into] if into else [])], strict=False)]
    modules = [plain_form(source) for source in sources]
    states = [entries(module) for module in modules]
    for name, state in zip(every, states, strict=False):
        kinds(state, name)
    if not any_width:
        check_alike(every[: len(states)], states)
    last = len(models) if into else 0
    home = {key: value.device for key, value in states[last].items()}
    fixed = (
        {} if into is None else {k: states[last][k] for k, v in kinds(states[last]).items() if v == "fixed"}
    )
    states = [{key: fixed.get(key, value) for key, value in state.items()} for state in states]
    return Parents(
        labels,
        lambda i: {key: value.to(home.get(key, value.device)) for key, value in states[i].items()},
        modules[last],
        examples,
        tuple(modules[: len(models)]),
        tuple(sources[: len(models)]),
        sources[last],
        chosen=into is not None,
        fixed=fixed,
        any_width=any_width,
    )


def _network(name: str, model: object) -> nn.Module:
    if isinstance(model, nn.Module):
        network = unwrapped(model)
        check_self_contained(network, name)
        return network
    raise FedMergeError(
        f"'{name}' is of type {type(model).__name__}, not an nn.Module: load its weights into a network, or "
        "merge files with fedmerge merge."
    )


def plain_form(model: nn.Module) -> nn.Module:
    return plain(model) if reparametrised(model) else model
