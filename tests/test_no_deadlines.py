"""No property test can fail for being slow: only the profile of tests/conftest.py speaks of time."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
CLOCKS = {"deadline", "suppress_health_check"}
"""What of hypothesis's settings looks at a clock, or turns such a look off."""


def settings_of(source: str) -> list[tuple[int, set[str]]]:
    """Line and keywords of each call of ``settings``, ``settings.register_profile`` and the like."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [node for node in calls if "settings" in ast.unparse(node.func).split(".")]
    return [(node.lineno, {str(keyword.arg) for keyword in node.keywords}) for node in named]


def test_the_profile_of_all_tests_has_no_deadline() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check
    assert settings(max_examples=3).deadline is None


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("@settings(max_examples=3)\ndef test(): ...", [(1, {"max_examples"})]),
        ("@hypothesis.settings(deadline=200)\ndef test(): ...", [(1, {"deadline"})]),
        ("x = 1\nsettings.register_profile('own', deadline=9)", [(2, {"deadline"})]),
        ("@settings(**fast)\ndef test(): ...", [(1, {"None"})]),
        ("serve(deadline=60)", []),
    ],
)
def test_settings_are_found_in_every_form(source: str, found: list[tuple[int, set[str]]]) -> None:
    assert settings_of(source) == found


def test_no_test_sets_a_deadline_of_its_own() -> None:
    files = [file for file in TESTS.rglob("*.py") if file.parent != TESTS or file.name != "conftest.py"]
    assert len(files) > 50
    for file in files:
        for line, keywords in settings_of(file.read_text()):
            assert not keywords & {*CLOCKS, "None"}, f"{file}:{line}: leave the clock to tests/conftest.py"
