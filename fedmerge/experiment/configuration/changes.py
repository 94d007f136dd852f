"""Changes to fields of a configuration: by ``--set``, by a study, by a level of an axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedmerge.errors import FedMergeError, short
from fedmerge.schema.yaml_text import read_yaml


def apply_change(data: dict[str, Any], change: str) -> None:
    """Carry out one ``--set a.b.c=value``, the value read as YAML."""
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise FedMergeError(
            f"--set takes field=value (for example training.rounds=10), not '{short(change)}'."
        )
    _check_way(data, key)
    set_field(data, key, read_yaml(text, f"--set {short(key)}"))


def _check_way(data: Mapping[str, Any], key: str) -> None:
    """Refuse a field inside a name; a model's name alone stands for its fields."""
    parts, place = key.split("."), data
    for i, part in enumerate(parts[:-1]):
        child = place.get(part)
        if isinstance(child, str) and part != "model":
            above = ".".join(parts[: i + 1])
            raise FedMergeError(
                f"--set {short(key)}: {above} is the name '{short(child)}' here, so no field of it can be "
                f"set: write {above} out with all its fields, or set it as a whole."
            )
        place = child if isinstance(child, dict) else {}


def check_once(changes: Mapping[str, Any], where: str) -> None:
    """Raise FedMergeError where one mapping of changes sets a field twice: nested, and with dots."""
    named = [name for name, _ in _leaves(changes)]
    if twice := dict.fromkeys(name for name in named if named.count(name) > 1):
        raise FedMergeError(
            *(f"{where} sets '{name}' twice, nested and with dots: keep one." for name in twice)
        )


def _leaves(changes: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in changes.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def set_fields(data: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set dotted fields; a mapping changes the fields it names and leaves the others."""
    for key, value in changes.items():
        if isinstance(value, dict) and value:
            set_fields(data, {f"{key}.{inner}": deeper for inner, deeper in value.items()})
        else:
            set_field(data, key, value)


def set_field(data: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted field ``a.b.c`` in nested mappings; mappings on the way are copied, never shared."""
    parts, place = key.split("."), data
    for part in parts[:-1]:
        child = place.get(part)
        if isinstance(child, str):  # `model: small-cnn` and --set model.options.width=8
            child = {"name": child}
        place[part] = dict(child) if isinstance(child, dict) else {}
        place = place[part]
    place[parts[-1]] = value
