"""Plug-ins: files and modules outside this package that add to its registries.

A plug-in is named by a dotted module, by a FILE.py, or by an entry point of an installed package. It travels
to other processes as text, ``NAME@HASH``, and is imported again there; the hash of its code says whether it
is the same. An exception inside a plug-in becomes a sentence that names it (``blame``).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from fedmerge.errors import FedMergeError, nearest, short
from fedmerge.schema.validation import is_there, note_file

_HASHED = re.compile(r"(.+)@([0-9a-f]{64})")


@dataclass(frozen=True)
class Plugin:
    """A plug-in. name: its module, or the absolute path of its file. module: its name among Python's modules.

    files: those of its code: the file, or all ``*.py`` of the package that the module is in. hash: the
    SHA-256 over their names and contents.
    """

    name: str
    module: str
    files: tuple[Path, ...]
    hash: str

    @property
    def title(self) -> str:
        """Its name for people and for other machines: see ``title_of``."""
        return title_of(self.name)

    @property
    def text(self) -> str:
        """The plug-in as it travels: ``NAME@HASH``."""
        return f"{self.name}@{self.hash}"

    def has(self, module: str) -> bool:
        """Whether a Python module is part of the plug-in."""
        return module == self.module or module.startswith(f"{self.module}.")


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
    if not _is_file(_parts(name)[0]):
        return name
    path, expected = Path(_parts(name)[0]).expanduser(), _parts(name)[1]
    for place in (path, *([near / path] if near else [])):
        if is_there(place) and not place.is_dir():
            return f"{place.resolve()}{f'@{expected}' if expected else ''}"
    where = f" or {near}" if near and not path.is_absolute() else ""
    raise FedMergeError(f"there is no plug-in {short(path)} in {Path.cwd()}{where}: check the path.")


def title_of(name: str) -> str:
    """Return a plug-in's name for people and other machines: its module, or its file without the folder."""
    return Path(name).name if _is_file(name) else name


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


def load_module(name: str) -> Plugin:
    """Import one plug-in, whether or not it adds to a registry; see ``load_plugins``."""
    name, expected = _parts(name)
    if _allowed is not None and name not in _allowed:
        raise FedMergeError(
            f"plug-in {short(name)} is not among the plugins of this hospital's policy.yaml, so it is not "
            "loaded here."
        )
    found = _find(name)
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


def loaded_plugins() -> tuple[str, ...]:
    """Return all plug-ins of this process as text, for the processes that it starts."""
    return tuple(plugin.text for plugin in _loaded.values())


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
    return plugin is None or plugin.name in _announced or plugin.name in {_parts(name)[0] for name in names}


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
    _find_module.cache_clear()
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


def _parts(name: str) -> tuple[str, str]:
    match = _HASHED.fullmatch(name)
    return (match[1], match[2]) if match else (name, "")


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _find(name: str) -> Plugin:
    if not _is_file(name):
        return _find_module(name)
    path = Path(name).resolve()
    if not is_there(path):
        raise FedMergeError(f"there is no plug-in {short(name)} on this machine: put it there.")
    module = f"fedmerge_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    return Plugin(str(path), module, (path,), _hash([path], path.parent))


@functools.cache
def _find_module(name: str) -> Plugin:
    """Return the plug-in of a module; once a process, because Python imports a module once a process."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    except Exception as error:
        raise FedMergeError(f"plug-in {short(name)} cannot be imported: {said_of(error)}.") from error
    if spec is None or not spec.origin:
        raise FedMergeError(
            f"there is no plug-in module {short(name)}: install it, or name a file, FILE.py, that is there."
        )
    root = Path(spec.origin).resolve()
    for _ in range(name.count(".") + (root.name == "__init__.py")):
        root = root.parent
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    return Plugin(name, name, tuple(files), _hash(files, root.parent))


def _hash(files: Sequence[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _import(plugin: Plugin, anew: bool) -> None:
    """Import a plug-in; anew: what its older code had registered is dropped first."""
    if anew:
        for registry in REGISTRIES:
            registry.drop(plugin.module)
    try:
        if _is_file(plugin.name):
            _run_file(plugin)
        else:
            importlib.import_module(plugin.module)
    except Exception as error:
        for registry in REGISTRIES:
            registry.drop(plugin.module)
        _loaded.pop(plugin.name, None)
        where = line_of(error, plugin.files)
        raise FedMergeError(
            f"plug-in {plugin.title} ({where}) cannot be imported: {said_of(error)}"
        ) from error


def _run_file(plugin: Plugin) -> None:
    spec = importlib.util.spec_from_file_location(plugin.module, plugin.name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[plugin.module] = module
    source = Path(plugin.name).read_bytes()
    code = compile(source, plugin.name, "exec", dont_inherit=True)  # never what a .pyc remembers
    exec(code, module.__dict__)


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


def line_of(error: BaseException, files: Sequence[Path]) -> str:
    """Return where in a plug-in's files an exception was raised, the innermost place."""
    known = set(files)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve() in known:
            return f"{frame.filename}, line {frame.lineno}"
    line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    return f"{files[0]}{line}"


def said_of(error: BaseException) -> str:
    """Return an exception's kind and its own words."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
