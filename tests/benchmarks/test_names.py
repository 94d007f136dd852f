"""Names that nothing else checks: imports of the scripts, and commands printed in README and docs."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from benchmarks import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"])
COMMAND = re.compile(r"(?:\bbenchmarks\.|`)((?:speed|studies|simulations|parity)(?:\.\w+)+)((?: [^`\n]*)?)")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_imported_name_exists(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("fedmerge"):
            continue
        module = importlib.import_module(str(node.module))
        for name in node.names:
            if not hasattr(module, name.name):
                importlib.import_module(f"{node.module}.{name.name}")


def commands(page: Path) -> list[tuple[str, str]]:
    """Return each command of a page as (module, its options), line breaks in a paragraph being spaces."""
    text = re.sub(r"(?<!\n)\n(?![\n|`]|python|fedmerge)", " ", page.read_text(encoding="utf-8"))
    return COMMAND.findall(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_printed_command_exists_with_its_options(page: Path) -> None:
    for name, options in commands(page):
        path = ROOT / "benchmarks" / (name.replace(".", "/") + ".py")
        assert path.is_file(), f"{page}: python -m benchmarks.{name}"
        source = path.read_text(encoding="utf-8")
        assert '__name__ == "__main__"' in source, f"{page}: benchmarks.{name} cannot be run"
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in source, f"{page}: benchmarks.{name} has no {option}"


def test_what_make_bench_runs_exists() -> None:
    names = re.findall(r"BENCHMARKS := ((?:.|\\\n)*?)\n\n", (ROOT / "Makefile").read_text(encoding="utf-8"))
    listed = names[0].replace("\\", " ").split()
    assert len(listed) >= 8
    for name in listed:
        assert (ROOT / "benchmarks" / "speed" / f"{name}.py").is_file(), name


def test_the_pages_are_read() -> None:
    found = dict(commands(ROOT / "docs" / "costs.md"))
    assert found["speed.inmerge"] == " --tau -2 --steps 12"
    assert "simulations.rounds" in dict(commands(ROOT / "docs" / "federation-algorithms.md"))


def test_nothing_is_imported_past_the_package() -> None:
    for script in SCRIPTS:
        assert "sys.path" not in script.read_text(encoding="utf-8"), script
