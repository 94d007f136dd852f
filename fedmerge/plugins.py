"""Plug-ins: files and modules outside this package that add to its registries.

A plug-in is named by a dotted module, by a FILE.py, or by an entry point of an installed package. It travels
to other processes as text, ``NAME@HASH``, a file with its code, and is imported again there; the hash of
its code says whether it is the same. An exception inside a plug-in becomes a sentence that names it
(``blame``).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import weakref
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from fedmerge.errors import FedMergeError, nearest, short
from fedmerge.plugin_code import Plugin, find, find_module, is_file, line_of, parts_of, run_file, said_of
from fedmerge.schema.validation import is_there, note_file


class Holder(Protocol):
    """A registry, as far as plug-ins need it."""

    def modules(self) -> Iterator[str]:
        """Yield the Python module of each entry."""

    def drop(self, module: str) -> None:
        """Take out the entries of a Python module."""


REGISTRIES: weakref.WeakSet[Holder] = weakref.WeakSet()
_loaded: dict[str, Plugin] = {}
_entered: set[str] = set()
_announced: set[str] = set()
_allowed: frozenset[str] | None = None


def locate_plugins(names: Sequence[str], near: Path | None = None) -> tuple[str, ...]:
    """Return plug-ins as text that means the same in every folder: a file becomes its absolute path.

    A relative file is taken from the working directory, or from ``near``, the folder of the configuration
    that names it. Raises FedMergeError for a file that is in neither.
    """
    return tuple(dict.fromkeys(_located(name, near) for name in names))


def _located(name: str, near: Path | None) -> str:
    if not is_file(parts_of(name)[0]):
        return name
    path, expected = Path(parts_of(name)[0]).expanduser(), parts_of(name)[1]
    for place in (path, *([near / path] if near else [])):
        if is_there(place) and not place.is_dir():
            return f"{place.resolve()}{f'@{expected}' if expected else ''}"
    where = f" or {near}" if near and not path.is_absolute() else ""
    raise FedMergeError(f"there is no plug-in {short(path)} in {Path.cwd()}{where}: check the path.")


def load_plugins(names: Sequence[str]) -> tuple[Plugin, ...]:
    """Import plug-ins (``module``, ``FILE.py``, or ``NAME@HASH``), each once a process; return them.

    A file that changed since is imported again, in place of the old one. Raises FedMergeError where one
    is not there, cannot be imported, adds nothing, or is other code than its hash says.
    """
    found = tuple(load_module(name) for name in locate_plugins(names))
    for plugin in found:
        if not any(plugin.has(module) for registry in REGISTRIES for module in registry.modules()):
            raise FedMergeError(
                f"plug-in {plugin.title} adds nothing: decorate a function or class in it, for example with "
                "@fedmerge.FUSION.method(...)."
            )
    return found


def load_module(name: str, source: bytes | None = None) -> Plugin:
    """Import one plug-in, whether or not it adds to a registry; see ``load_plugins``.

    source: the code of a file as another process has it (``loaded_plugins``), which need not be here, too.
    """
    name, expected = parts_of(name)
    if _allowed is not None and name not in _allowed:
        raise FedMergeError(
            f"plug-in {short(name)} is not among the plugins of this hospital's policy.yaml, so it is not "
            "loaded here."
        )
    found = find(name, source)
    for path in found.files:
        note_file(path)
    if expected and expected != found.hash:
        raise FedMergeError(
            f"plug-in {found.title} is other code here than where the work was planned (SHA-256 "
            f"{found.hash[:12]}, planned with {expected[:12]}): it was changed meanwhile, or another version "
            "is installed. Start again with one version everywhere."
        )
    if _loaded.get(name) != found:
        _import(found, anew=name in _loaded)
        _loaded[name] = found
    return found


def all_loaded() -> tuple[Plugin, ...]:
    """Return the plug-ins of this process."""
    return tuple(_loaded.values())


def loaded_plugins() -> dict[str, bytes | None]:
    """Return all plug-ins of this process for those that it starts: as text, each with the code of its file.

    None for a module, which has to be installed there.
    """
    return {plugin.text: plugin.source for plugin in _loaded.values()}


def loaded_code(titles: Sequence[str]) -> dict[str, str]:
    """Return the hash of each loaded plug-in with one of these titles."""
    return {plugin.title: plugin.hash for plugin in _loaded.values() if plugin.title in titles}


def origin_of(call: object) -> Plugin | None:
    """Return the loaded plug-in that a function or class is from; None for FedMerge's own."""
    module = getattr(call, "__module__", None) or ""
    return next((plugin for plugin in _loaded.values() if plugin.has(module)), None)


def is_among(plugin: Plugin | None, names: Sequence[str]) -> bool:
    """Whether what a plug-in adds counts for work that names these plug-ins.

    FedMerge's own (None) and what an installed package announces always count.
    """
    return plugin is None or plugin.name in _announced or plugin.name in {parts_of(name)[0] for name in names}


def restrict_plugins(allowed: Sequence[str]) -> None:
    """Load the plug-ins of these names (as located), and no other in this process: a deployed node's rule."""
    global _allowed
    _allowed = frozenset(allowed)
    for name in allowed:
        load_module(name)


def unload_plugins() -> None:
    """Forget every plug-in of this process and what it added; what comes next is loaded anew."""
    global _allowed
    for plugin in _loaded.values():
        for registry in REGISTRIES:
            registry.drop(plugin.module)
        for module in [name for name in sys.modules if plugin.has(name)]:
            del sys.modules[module]
    _allowed = None
    for known in (_loaded, _entered, _announced):
        known.clear()
    find_module.cache_clear()
    _points.cache_clear()


def enter(group: str) -> None:
    """Load the plug-ins that installed packages announce in an entry-point group, once a process.

    Under ``restrict_plugins`` only the allowed ones. Raises FedMergeError for one that cannot be loaded.
    """
    if group in _entered:
        return
    _entered.add(group)
    for point in _points().select(group=group):
        module = point.value.partition(":")[0].strip()
        if _allowed is None or module in _allowed:
            try:
                load_module(module)
                _announced.add(module)
            except FedMergeError as error:
                _entered.discard(group)
                raise error.inside(f"entry point '{point.name}' of {group}") from None


@functools.cache
def _points() -> Any:
    """Return the entry points of all installed packages; to read them takes a while."""
    return entry_points()


def _import(plugin: Plugin, anew: bool) -> None:
    """Import a plug-in; anew: what its older code had registered is dropped first."""
    if anew:
        for registry in REGISTRIES:
            registry.drop(plugin.module)
    try:
        if is_file(plugin.name):
            run_file(plugin)
        else:
            importlib.import_module(plugin.module)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        for registry in REGISTRIES:
            registry.drop(plugin.module)
        _loaded.pop(plugin.name, None)
        where = line_of(error, plugin.files)
        raise FedMergeError(
            f"plug-in {plugin.title} ({where}) cannot be imported: {said_of(error)}"
        ) from error


def attribute(name: str) -> Any:
    """Return the attribute ``MODULE:NAME`` of a plug-in that is loaded. Raises FedMergeError otherwise."""
    module, _, wanted = name.partition(":")
    if module not in _loaded:
        raise FedMergeError(
            f"'{short(name)}' is in the module {short(module)}, which is not loaded, because only a "
            f"configuration or a command may say what is: name it there, as --plugin {short(module)}."
        )
    found = getattr(sys.modules[_loaded[module].module], wanted, None)
    if not callable(found):
        known = [each for each, value in vars(sys.modules[module]).items() if inspect.isfunction(value)]
        raise FedMergeError(f"module {module} has no function '{short(wanted)}'.{nearest(wanted, known)}")
    return found
