"""Read YAML files into typed options; each fault is a sentence with the file, the field and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from fedmerge.errors import Faults, FedMergeError, short
from fedmerge.schema.faults import faults_of
from fedmerge.schema.yaml_text import read_yaml

M = TypeVar("M", bound=BaseModel)
_files: ContextVar[list[Path] | None] = ContextVar("files", default=None)
LONGEST_NAME = 100
"""The most letters of a name that also names files."""
LARGEST = 64 * 2**20
"""The most bytes of a YAML file."""


def _distinct(values: Any) -> Any:
    """Check a list and return it. Raises ValueError, with a sentence for each value that is listed twice."""
    seen: list[Any] = []
    twice: dict[str, None] = {}
    for name in (getattr(value, "name", value) for value in values or ()):
        if name in seen:
            twice[short(name)] = None
        seen.append(name)
    if twice:
        raise ValueError(*(f"'{each}' is listed twice: list it once" for each in twice))
    return values


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"a number is expected, but YAML reads {str(value).lower()} there")
    return value


def off_as_written(value: Any) -> Any:
    """Return ``off`` for False, as which YAML 1.1 reads it: for fields with ``off`` among their words."""
    return "off" if value is False else value


Distinct = AfterValidator(_distinct)
"""Annotation of a list without repeated values: ``Annotated[tuple[str, ...], Distinct]``."""

NoBoolean = BeforeValidator(_no_boolean)
"""Annotation of a number written under a name other than its field's, where no other check sees it."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A seed: tables hold whole numbers of 64 bits."""


def load_yaml(path: Path | str, faults: Faults | None = None) -> dict[str, Any]:
    """Read one YAML file whose top level is a mapping; ``read_yaml`` lists what is refused in it.

    Raises ``FedMergeError`` where the file is missing, is not text, is broken (with the line) or is not a
    mapping. faults: takes the faults of a file that can be read nevertheless, and they are not raised.
    """
    path = Path(path)
    note_file(path)
    data = read_yaml(_text(path), str(path), faults)
    if not isinstance(data, dict):
        found = "nothing" if data is None else "a list" if isinstance(data, list) else short(repr(data))
        raise FedMergeError(f"{path} should hold fields such as 'name: value', but holds {found}.")
    return data


def _text(path: Path) -> str:
    raw = b""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise FedMergeError(f"{path} is larger than {LARGEST:,} bytes: name a YAML file.")
        return raw.decode("utf-8")
    except FileNotFoundError:
        raise FedMergeError(f"there is no file {path}: check the path.") from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FedMergeError(
            f"{path} is not a text file (line {line} is not UTF-8): save it as UTF-8, or name a YAML file."
        ) from None
    except IsADirectoryError:
        raise FedMergeError(f"{path} cannot be read, because it is a folder: name a YAML file.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise FedMergeError(f"{short(path)} cannot be read ({why}): check the path.") from None


def is_there(path: Path) -> bool:
    """Whether the path exists; an impossible name (too long, a NUL in it) does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether the path is a folder."""
    return is_there(path) and path.is_dir()


def note_file(path: Path) -> None:
    """Note a file that decides what is done, for ``noting_files``."""
    if (noted := _files.get()) is not None:
        noted.append(path)


@contextmanager
def noting_files() -> Iterator[list[Path]]:
    """Yield a list of the files that decide what is done: each YAML file read and plug-in in the block."""
    noted: list[Path] = []
    token = _files.set(noted)
    try:
        yield noted
    finally:
        _files.reset(token)


def validate(model: type[M], data: Any, where: str) -> M:
    """Return ``data`` as an instance of ``model``. Raises FedMergeError with all its faults as sentences.

    ``where`` names the origin in the message (a file). A sentence gives the dotted field, what was given,
    what is allowed, and the nearest valid name. Validators may raise ``ValueError`` with plain sentences.
    """
    found, faults = faults_of(model, data)
    if faults:
        raise FedMergeError(*(sentence for fault in faults for sentence in fault.sentences)).inside(where)
    result: M = found
    return result


def differences(before: Any, now: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted fields in which two mappings differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{field}.{key}" if field else key)
    elif before != now:
        yield field, before, now
