"""Documentation against the program: links lead somewhere, commands exist, the tutorial runs as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.reports import page as report_page

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])
SMALL = ["--set", "model.options.width=4", "--set", "training.epochs=1"]
"""What makes the tutorial's runs quick."""
GENERATED = ("reference/methods/", "notebooks/")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        assert link.startswith(GENERATED) or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_first_page_is_short_and_the_site_lists_every_page():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    named = {page for page in listed if not page.startswith(GENERATED)}
    assert pages == named, f"add to nav in mkdocs.yml, or take out: {pages ^ named}"


COMMANDS: click.Command = typer.main.get_command(app)


def commands(text: str) -> Iterator[str]:
    """The lines of blocks that call the program, without comments and brackets around what is optional."""
    for _, language, block in BLOCK.findall(text):
        if language in ("", "bash", "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.match(r"\s*(?:\$ )?(fedmerge .*)", line):
                    yield re.sub(r"[][]", "", found[1].partition(" #")[0]).partition("|")[0]


def check(line: str) -> None:
    """Whether there is such a command, with such options."""
    words = shlex.split(line.replace("'", "").replace('"', ""))[1:]
    command = COMMANDS
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        name = words.pop(0).rstrip(":")
        if name in ("…", "..."):
            return
        assert name in command.commands, f"{line}: there is no command {name}"
        command = command.commands[name]
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for word in words:
        if re.match(r"--?[a-zA-Z]", word) and word != "--help":
            assert word.partition("=")[0] in known, f"{line}: there is no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_that_is_shown_exists_with_its_options(page):
    for line in commands(page.read_text(encoding="utf-8")):
        check(line)


def test_the_tutorial_runs_as_it_stands(tmp_path, monkeypatch):
    """Its blocks in order: commands are run, Python is executed, YAML is the file named before it."""
    monkeypatch.setattr(report_page, "image_of", lambda *what, **options: "data:image/svg+xml;base64,")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        language, block = found[2], found[3]
        if language == "python":
            exec(compile(block, "tutorial", "exec"), {})
        elif language == "yaml":
            named = re.findall(r"`([\w/.-]+\.yaml)`:\s*$", text[: found.start()])[-1]
            assert yaml.safe_load(block)
            Path(named).write_text(block)
        else:
            for line in block.splitlines():
                words = shlex.split(line)
                if words[0] == "cd":
                    monkeypatch.chdir(words[1])
                    continue
                small = SMALL if words[1:3] == ["run", "experiment.yaml"] else []
                done = CliRunner().invoke(app, [*words[1:], *small], catch_exceptions=False)
                assert done.exit_code == 0, (line, done.output)
    assert Path("mean.pt").is_file()
    assert {path.name for path in Path("runs").iterdir()} == {"study-001", "study-002"}
