"""An exception inside a plug-in is a sentence that names it, its file and line, and what it was doing."""

from __future__ import annotations

import functools
import inspect
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError
from fedmerge.plugin_code import Plugin, line_of, said_of
from fedmerge.plugins import all_loaded, origin_of
from fedmerge.storage.files import full


def guarded(call: Callable[..., Any], what: str, enters: Sequence[str] = ()) -> Callable[..., Any]:
    """Return a plug-in's function or class with its exceptions turned into sentences; others as they are.

    what: the entry in words (``fusion method 'mine'``). enters: the methods of a class that FedMerge calls.
    """
    plugin = origin_of(call)
    if plugin is None:
        return call
    if not inspect.isclass(call):
        return _guarded(call, what, plugin)
    names = [name for name in ("__init__", *enters) if callable(getattr(call, name, None))]
    wrapped = {name: _guarded(getattr(call, name), what, plugin) for name in names}
    same = {"__doc__": call.__doc__, "__module__": call.__module__, "__qualname__": call.__qualname__}
    made: Callable[..., Any] = types.new_class(
        call.__name__, (call,), {}, lambda own: own.update(same | wrapped)
    )
    return made


def _guarded(call: Callable[..., Any], what: str, plugin: Plugin) -> Callable[..., Any]:
    @functools.wraps(call)
    def guard(*given: Any, **options: Any) -> Any:
        try:
            return call(*given, **options)
        except FedMergeError:
            raise
        except (Exception, SystemExit) as error:
            if full(error) or _of_ray(error):
                raise
            raise FedMergeError(_sentence(what, plugin, error)) from error

    return guard


def _of_ray(error: BaseException) -> bool:
    """Whether an exit is Ray's, which ends a worker wherever it is; ``sys.exit`` adds no attributes."""
    return isinstance(error, SystemExit) and bool(vars(error))


def blamed(error: BaseException, what: str = "a part") -> str | None:
    """Return the sentence for an exception that came out of a plug-in's code; None for any other.

    For what FedMerge calls without a registry between: the forward pass of a plug-in's network.
    """
    if isinstance(error, FedMergeError):
        return None
    frames = {Path(frame.filename).resolve() for frame in traceback.extract_tb(error.__traceback__)}
    for plugin in all_loaded():
        if frames & set(plugin.files):
            return _sentence(what, plugin, error)
    return None


def _sentence(what: str, plugin: Plugin, error: BaseException) -> str:
    return f"{what} of plug-in {plugin.title} failed ({line_of(error, plugin.files)}): {said_of(error)}"
