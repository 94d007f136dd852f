"""The code of a plug-in: where it is, its hash, how it is run, and where in it an exception came from."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedmerge.errors import FedMergeError, short
from fedmerge.schema.validation import is_there


@dataclass(frozen=True)
class Plugin:
    """A plug-in. name: its module, or the absolute path of its file. module: its name among Python's modules.

    files: those of its code: the file, or all ``*.py`` of the package that the module is in. hash: the
    SHA-256 over their names and contents. source: the code of a file.
    """

    name: str
    module: str
    files: tuple[Path, ...]
    hash: str
    source: bytes | None = field(default=None, repr=False, compare=False)

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


def title_of(name: str) -> str:
    """Return a plug-in's name for people and other machines: its module, or its file without the folder."""
    return Path(name).name if is_file(name) else name


_HASHED = re.compile(r"(.+)@([0-9a-f]{64})")


def parts_of(name: str) -> tuple[str, str]:
    match = _HASHED.fullmatch(name)
    return (match[1], match[2]) if match else (name, "")


def is_file(name: str) -> bool:
    return name.endswith(".py")


def find(name: str, source: bytes | None = None) -> Plugin:
    """Return the plug-in of a name. source: of a file, the code that came from another machine."""
    if not is_file(name):
        return find_module(name)
    path = Path(name)
    if source is None:
        path = path.resolve()
        if not is_there(path):
            raise FedMergeError(f"there is no plug-in {short(name)} on this machine: put it there.")
        source = path.read_bytes()
    module = f"fedmerge_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    return Plugin(str(path), module, (path,), _hash({path.name: source}), source)


@functools.cache
def find_module(name: str) -> Plugin:
    """Return the plug-in of a module; once a process, because Python imports a module once a process."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    except (Exception, SystemExit) as error:
        raise FedMergeError(f"plug-in {short(name)} cannot be imported: {said_of(error)}.") from error
    if spec is None or not spec.origin:
        raise FedMergeError(
            f"there is no plug-in module {short(name)}: install it, or name a file, FILE.py, that is there."
        )
    root = Path(spec.origin).resolve()
    for _ in range(name.count(".") + (root.name == "__init__.py")):
        root = root.parent
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    contents = {str(path.relative_to(root.parent)): path.read_bytes() for path in files}
    return Plugin(name, name, tuple(files), _hash(contents))


def _hash(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def run_file(plugin: Plugin) -> None:
    spec = importlib.util.spec_from_file_location(plugin.module, plugin.name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[plugin.module] = module
    assert plugin.source is not None
    code = compile(plugin.source, plugin.name, "exec", dont_inherit=True)  # never what a .pyc remembers
    exec(code, module.__dict__)


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
