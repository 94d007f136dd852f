"""Registries: one decorator registers a method with name, title, paper, typed options and needs.

A method is a function or a class. Its options are its keyword-only parameters, with their annotations
and defaults: the schema, the checks and the help are read from the signature, never written twice.
A ``Catalogue`` holds anything that has a name; a ``Registry`` holds methods. Both find plug-ins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any, Generic, Protocol, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from fedmerge.blame import guarded
from fedmerge.errors import FedMergeError, nearest, unknown
from fedmerge.plugin_code import Plugin
from fedmerge.plugins import REGISTRIES, enter, is_among, origin_of
from fedmerge.schema.faults import faults_of
from fedmerge.schema.typed import check_when_made

PLAIN_TASK = "multiclass"
"""The task that every method is for."""
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Needs:
    """The needs of a method; a run is refused before it starts where one is not met.

    individual_models: each hospital's own weights, not only their sum.
    score: a validation score of a merged model, asked from the hospitals.
    features: a network with a linear head whose input can be read.
    fusion_images: a few hundred images where the fusion is computed.
    fusion_sums: sums over fusion images, which may stay where they are.
    fusion_labels: the classes of the fusion images.
    own_sums: sums over each hospital's images for its own model, which cannot be added to other hospitals'.
    shared_start: the weights from which all models were trained.
    unlabelled_batches: images of the target, without labels.
    control_variates: hospitals that correct their steps (``federation.messages.control_variates``).
    """

    individual_models: bool = False
    score: bool = False
    features: bool = False
    fusion_images: bool = False
    fusion_sums: bool = False
    fusion_labels: bool = False
    own_sums: bool = False
    shared_start: bool = False
    unlabelled_batches: bool = False
    control_variates: bool = False

    def names(self) -> list[str]:
        """Return the needs that are set, in words."""
        return [name.replace("_", " ") for name, value in vars(self).items() if value]

    def __or__(self, other: Needs) -> Needs:
        """Return the needs of both."""
        return Needs(**{name: value or getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Method:
    """A registered method: its names for people, its typed options, and the callable behind it.

    misfits: for which tasks it is not, by name, with the reason; None: for none but multiclass.
    """

    name: str
    title: str
    paper: str
    group: str
    kind: str
    needs: Needs
    call: Callable[..., Any]
    options: type[BaseModel] = field(repr=False)
    also: Callable[[dict[str, Any]], Needs] | None = field(default=None, repr=False)
    any_width: bool = False
    own_state: bool = False
    misfits: Mapping[str, str] | None = field(default=None, repr=False)

    def misfit(self, task: str) -> str:
        """Return why the method is not for a task, a clause; empty where it is."""
        if self.misfits is None:
            return (
                f"it does not say that it is for other tasks than {PLAIN_TASK}" if task != PLAIN_TASK else ""
            )
        return self.misfits.get(task, "")

    @property
    def summary(self) -> str:
        """The first line of the callable's docstring."""
        return (inspect.getdoc(self.call) or "").split("\n", 1)[0]

    @property
    def origin(self) -> Plugin | None:
        """The plug-in that it is from; None for FedMerge's own."""
        return origin_of(self.call)

    def needs_with(self, given: dict[str, Any]) -> Needs:
        """Return what the method needs with these options, the others at their defaults."""
        if self.also is None:
            return self.needs
        defaults = {name: value.default for name, value in self.options.model_fields.items()}
        return self.needs | self.also(defaults | given)

    def check(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return ``given`` checked against the typed options. Raises FedMergeError, a sentence per fault.

        A mapping for an option that is a group (a dataclass) says what is not as in the method's default.
        """
        fields, who = self.options.model_fields, f"{self.kind} '{self.name}'"
        known = {key: _filled(value, fields[key].default) for key, value in given.items() if key in fields}
        said = [
            f"{who} has no option '{key}'.{nearest(str(key), fields)} "
            f"Allowed: {', '.join(sorted(fields)) or 'none'}."
            for key in given
            if key not in fields
        ]
        checked, faults = faults_of(self.options, known)
        said += [
            f"{who}, option {sentence.removeprefix('field ')}"
            for each in faults
            for sentence in each.sentences
        ]
        if said:
            raise FedMergeError(*said)
        return {key: getattr(checked, key) for key in given}


class Entry(Protocol):
    """What a catalogue holds: a frozen dataclass with a name and a callable."""

    @property
    def name(self) -> str: ...
    @property
    def call(self) -> Callable[..., Any]: ...


E = TypeVar("E", bound=Entry)


class Catalogue(Generic[E]):
    """Entries by name, FedMerge's own first, then those of plug-ins.

    kind: of an entry, in words. entry_points: the group in which installed packages announce theirs; they are
    loaded when a name is not known, or all are asked for. enters: the methods of a registered class that
    FedMerge calls: an exception in one, or in a registered function, names the plug-in that it is from.
    """

    def __init__(self, kind: str, entry_points: str = "", enters: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._entry_points = entry_points
        self._enters = enters
        self._methods: dict[str, E] = {}
        self._guarded: dict[str, tuple[E, E]] = {}
        REGISTRIES.add(self)

    def add(self, entry: E) -> None:
        """Register an entry. Raises ValueError for a name that is taken."""
        if entry.name in self._methods:
            raise ValueError(f"{self.kind} '{entry.name}' is registered twice")
        self._methods[entry.name] = entry

    def drop(self, module: str) -> None:
        """Take out the entries of a Python module and those below it."""
        gone = [
            name
            for name, entry in self._methods.items()
            if f"{getattr(entry.call, '__module__', '')}.".startswith(f"{module}.")
        ]
        for name in gone:
            del self._methods[name]

    def modules(self) -> Iterator[str]:
        """Yield the Python module of each entry."""
        return (getattr(entry.call, "__module__", "") for entry in self._methods.values())

    def __getitem__(self, name: str) -> E:
        if not isinstance(name, str) or name not in self:
            raise unknown(self.kind, str(name), self.names())
        entry = self._methods[name]
        if origin_of(entry.call) is None:
            return entry
        known = self._guarded.get(name)
        if known is None or known[0] is not entry:
            call = guarded(entry.call, f"{self.kind} '{name}'", self._enters)
            known = self._guarded[name] = (entry, replace(entry, call=call))  # type: ignore[type-var]
        return known[1]

    def __iter__(self) -> Iterator[E]:
        return (self[name] for name in self.names())

    def among(self, plugins: Sequence[str]) -> list[E]:
        """Return FedMerge's own entries, those of installed packages, and those of the named plug-ins."""
        return [entry for entry in self if is_among(origin_of(entry.call), plugins)]

    def __contains__(self, name: object) -> bool:
        if name not in self._methods:
            self._enter()
        return name in self._methods

    def names(self) -> list[str]:
        """Return all names, in order of registration."""
        self._enter()
        return list(self._methods)

    def _enter(self) -> None:
        if self._entry_points:
            enter(self._entry_points)


class Registry(Catalogue[Method]):
    """The methods of one group (fusion, test-time), by name.

    any_task: whether a method that does not say for which tasks it is fits all; those that never see what an
    output means do.
    """

    def __init__(
        self,
        group: str,
        kind: str,
        entry_points: str = "",
        enters: tuple[str, ...] = (),
        *,
        any_task: bool = True,
    ) -> None:
        super().__init__(kind, entry_points, enters)
        self.group, self.any_task = group, any_task

    def method(
        self,
        name: str,
        *,
        title: str,
        paper: str = "",
        needs: Needs | None = None,
        also: Callable[[dict[str, Any]], Needs] | None = None,
        any_width: bool = False,
        own_state: bool = False,
        misfits: Mapping[str, str] | None = None,
    ) -> Callable[[F], F]:
        """Decorate a function or class to register it; its keyword-only parameters are options.

        also: needs of certain options on top of ``needs``. any_width: whether models may differ in width.
        own_state: whether each model keeps state that is not averaged (attributes, unsaved buffers). misfits:
        see ``Method``; where it is not given, ``any_task`` of the registry decides.
        """

        def register(call: F) -> F:
            options = options_model(name, call)
            needed = needs or Needs()
            method = Method(
                name, title, paper, "", "", needed, call, options, also, any_width, own_state, misfits
            )
            self.add(method)
            if inspect.isclass(call):
                check_when_made(call)
            return call

        return register

    def add(self, method: Method) -> None:
        """Register a ready ``Method``; its group and kind become this registry's."""
        unsaid = method.misfits is None and self.any_task
        misfits = {} if unsaid else method.misfits
        super().add(replace(method, group=self.group, kind=self.kind, misfits=misfits))


def _filled(value: Any, default: Any) -> Any:
    """Return a group's mapping with the fields of the default that it does not name."""
    if not isinstance(value, Mapping) or not is_dataclass(default):
        return value
    return {each.name: getattr(default, each.name) for each in dataclass_fields(default)} | dict(value)


def options_model(name: str, call: Callable[..., Any]) -> type[BaseModel]:
    """Return the keyword-only parameters of a function, or of a class's constructor, as a schema."""
    function = call.__init__ if inspect.isclass(call) else call
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            fields[parameter.name] = (hints[parameter.name], parameter.default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(f"{name}-options", __config__=config, **fields)
