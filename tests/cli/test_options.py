"""What a command line reads of a command: its parameters, and the fields of its groups, in their order."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import click
import pytest
import typer
from typer.models import ArgumentInfo, OptionInfo

from fedmerge.cli import app


def commands(command: click.Command, name: str = "") -> Iterator[Any]:
    if isinstance(command, click.Group):
        for each, below in command.commands.items():
            yield from commands(below, f"{name} {each}".strip())
    else:
        yield pytest.param(command, id=name)


COMMANDS = list(commands(typer.main.get_command(app)))


def written(command: click.Command) -> dict[str, tuple[Any, Any]]:
    """Annotation and default by parameter, from the source of a command; of its groups field by field."""
    function = inspect.unwrap(command.callback)
    hints = get_type_hints(function, include_extras=True)
    found: dict[str, tuple[Any, Any]] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if is_dataclass(hint):
            own = get_type_hints(hint, include_extras=True)
            found |= {each.name: (own[each.name], each.default) for each in fields(hint)}
        else:
            default = MISSING if parameter.default is parameter.empty else parameter.default
            found[parameter.name] = (hint, default)
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_has_what_the_command_says(command):
    expected = written(command)
    assert [each.name for each in command.params] == list(expected)
    for each in command.params:
        annotation, default = expected[each.name]
        _, said = get_args(annotation)
        assert isinstance(said, OptionInfo if isinstance(each, click.Option) else ArgumentInfo)
        if isinstance(each, click.Option):  # typer keeps the help of an argument elsewhere
            assert each.help == said.help, each.name
        assert each.required is (default is MISSING), each.name
        if default is not MISSING:
            assert each.default == default, each.name
