"""Groups of options: callers give the fields of a dataclass, and a signature shows them in its place."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Annotated, get_args

import pytest
import typer
from typer.testing import CliRunner

from fedmerge.registry import options_model
from fedmerge.schema.option_groups import flat


@dataclass(frozen=True)
class Size:
    """Two numbers, one of them needed."""

    width: Annotated[int, typer.Option(help="In pixels.")]
    height: Annotated[int, typer.Option(min=1)] = 3


@dataclass(frozen=True)
class Box(Size):
    """A third one, after those of ``Size``."""

    depth: int = 5


@flat
def area(times: int, *, box: Box, label: str = "area") -> str:
    """Say it."""
    return f"{label} {times * box.width * box.height * box.depth}"


def test_fields_stand_in_the_place_of_their_group_with_annotations_and_defaults():
    found = inspect.signature(area).parameters
    assert list(found) == ["times", "width", "height", "depth", "label"]
    empty = inspect.Parameter.empty
    assert [each.default for each in found.values()] == [empty, empty, 3, 5, "area"]
    plain, option = get_args(found["width"].annotation)
    assert (plain, option.help) == (int, "In pixels.")
    assert found["depth"].annotation is int
    assert (area.__name__, area.__doc__) == ("area", "Say it.")


def test_a_call_gives_fields_and_the_function_gets_its_group():
    assert area(2, width=7) == "area 210"
    assert area(1, width=1, height=2, depth=3, label="volume") == "volume 6"


def test_what_is_no_field_is_refused():
    with pytest.raises(TypeError, match="colour"):
        area(1, width=1, colour="red")
    with pytest.raises(TypeError, match="width"):
        area(1)


def test_two_groups_with_one_name_are_refused():
    def twice(*, one: Size, other: Box) -> None: ...

    with pytest.raises(ValueError, match="width"):
        flat(twice)


def test_a_default_that_is_made_anew_is_refused():
    @dataclass(frozen=True)
    class Names:
        names: list[str] = field(default_factory=list)

    def give(names: Names) -> None: ...

    def take(*, names: Names) -> None: ...

    give.__annotations__ = take.__annotations__ = {"names": Names}
    flat(give)  # a positional parameter is no group
    with pytest.raises(TypeError, match=r"Names\.names"):
        flat(take)


def test_a_command_line_reads_the_fields_as_options():
    app = typer.Typer()
    app.command()(flat(_print_area))
    assert CliRunner().invoke(app, ["2", "--width", "7", "--label", "is"]).stdout == "is 210\n"
    assert "In pixels." in CliRunner().invoke(app, ["--help"]).stdout
    assert CliRunner().invoke(app, ["2"]).exit_code == 2  # --width is needed
    assert CliRunner().invoke(app, ["2", "--width", "7", "--height", "0"]).exit_code == 2


def _print_area(times: int, *, box: Box, label: str = "area") -> None:
    print(label, times * box.width * box.height * box.depth)


def test_a_registry_reads_the_fields_as_options():
    options = options_model("area", area).model_fields
    assert list(options) == ["width", "height", "depth", "label"]
    assert options["height"].default == 3
