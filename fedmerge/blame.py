"""An exception inside a plug-in is a sentence that names it, its file and line, and what it was doing."""

from __future__ import annotations

import dis
import functools
import inspect
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
        except BaseException as error:
            if full(error) or _from_outside(error):
                raise
            raise FedMergeError(_sentence(what, plugin, error)) from error

    return guard


@contextmanager
def exits_named(what: str = "a part") -> Iterator[None]:
    """Turn what no ``except Exception`` catches into a FedMergeError, where a plug-in's code raised it.

    For blocks that run a plug-in's code without a registry between, such as the forward pass of its network:
    ``sys.exit`` there is a failure as any other, and ends no command.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        said = None if _from_outside(error) else blamed(error, what)
        if said is None:
            raise
        raise FedMergeError(said) from error


def _from_outside(error: BaseException) -> bool:
    """Whether no code under it raised an exception: Ctrl-C, the end of a generator, Ray's end of a worker.

    Ray ends a worker wherever it is by a SystemExit with attributes; ``sys.exit`` adds none. Ctrl-C comes
    between any two instructions, and code that raises KeyboardInterrupt from an instruction that raises.
    """
    if isinstance(error, KeyboardInterrupt):
        return not _raised(error)
    return isinstance(error, GeneratorExit) or (isinstance(error, SystemExit) and bool(vars(error)))


def _raised(error: BaseException) -> bool:
    """Whether a ``raise`` in a plug-in's own code is where an exception began."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return False
    code = step.tb_frame.f_code
    ours = {file for plugin in all_loaded() for file in plugin.files}
    raising = code.co_code[step.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raising and Path(code.co_filename).resolve() in ours


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
