"""Plug-ins: found, imported once, named in errors, known by their code; on a node only those allowed."""

from __future__ import annotations

import importlib.metadata
import signal
from pathlib import Path

import pytest
from facts import refused

from fedmerge import plugins
from fedmerge.blame import blamed, exits_named
from fedmerge.errors import FedMergeError
from fedmerge.plugins import (
    load_module,
    load_plugins,
    loaded_plugins,
    locate_plugins,
    restrict_plugins,
    unload_plugins,
)
from fedmerge.registry import Registry

SOUP = """
from tests_registry import FUSION

@FUSION.method("soup", title="Soup")
def soup(parents, *, rate: float = 0.5):
    '''Make soup.'''
    return {answer}
"""
NODE = """
from tests_registry import FUSION

@FUSION.method("node", title="Node")
class Node:
    '''A node.'''
    def __init__(self, models, *, rate: float = 1.0):
        self.rate = rate
    def observe(self, batch):
        return 1 / batch
"""


@pytest.fixture
def registry(monkeypatch):
    """A registry that plug-ins of a test can import."""
    made = Registry("fusion", "fusion method", "fedmerge.tests", ("observe",))
    module = type(plugins)("tests_registry")
    module.FUSION = made
    monkeypatch.setitem(plugins.sys.modules, "tests_registry", module)
    return made


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_adds_a_method_once_and_anew_where_it_changed(registry, tmp_path):
    path = write(tmp_path / "mine.py", SOUP.format(answer="1"))
    (first,) = load_plugins([str(path)])
    assert load_plugins([str(path)]) == (first,)
    assert registry["soup"].call([]) == 1
    assert registry["soup"].origin == first
    write(path, SOUP.format(answer="2"))
    (second,) = load_plugins([str(path)])
    assert registry["soup"].call([]) == 2
    assert first.hash != second.hash
    assert loaded_plugins() == {f"{path}@{second.hash}": path.read_bytes()}


def test_a_relative_file_is_beside_the_configuration_or_in_the_working_folder(tmp_path, monkeypatch):
    near = tmp_path / "configs"
    near.mkdir()
    mine = write(near / "mine.py", "")
    assert locate_plugins(["mine.py", "a.module"], near) == (str(mine), "a.module")
    monkeypatch.chdir(near)
    assert locate_plugins(["mine.py"]) == (str(mine),)
    with refused("theirs.py", "plug-in"):
        locate_plugins(["theirs.py"], near)


def test_other_code_than_was_planned_with_is_refused(registry, tmp_path):
    path = write(tmp_path / "mine.py", SOUP.format(answer="1"))
    (found,) = load_plugins([str(path)])
    load_plugins([found.text])
    write(path, SOUP.format(answer="2"))
    with refused("mine.py", "code"):
        load_plugins([found.text])


@pytest.mark.parametrize("left", [None, SOUP.format(answer="2")], ids=["not there", "other code"])
def test_a_file_goes_with_its_code_to_a_machine_that_has_none_or_another(registry, tmp_path, left):
    path = write(tmp_path / "mine.py", SOUP.format(answer="1 / len(parents)"))
    load_plugins([str(path)])
    travels = loaded_plugins()
    unload_plugins()
    path.unlink() if left is None else write(path, left)
    for text, source in travels.items():
        assert load_module(text, source).name == str(path)
    assert registry["soup"].call([1, 2]) == 0.5
    with refused("soup", str(path), "line", "ZeroDivisionError"):
        registry["soup"].call([])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\ny = 1 / 0\n", ["mine.py", "line 2", "ZeroDivisionError"]),
        ("import sys\nsys.exit(3)\n", ["mine.py", "line 2", "SystemExit", "3"]),
        ("def (:\n", ["mine.py", "line 1", "SyntaxError"]),
        ("x = 1\n", ["mine.py", "adds nothing"]),
    ],
)
def test_a_file_that_is_no_plug_in_is_a_sentence(tmp_path, text, words):
    path = write(tmp_path / "mine.py", text)
    with pytest.raises(FedMergeError) as caught:
        load_plugins([str(path)])
    assert all(word in str(caught.value) for word in words)


def test_an_exception_inside_names_the_method_the_plug_in_and_the_line(registry, tmp_path):
    path = write(tmp_path / "mine.py", SOUP.format(answer="parents['x']"))
    load_plugins([str(path)])
    with pytest.raises(FedMergeError) as caught:
        registry["soup"].call([])
    for word in ("fusion method 'soup'", "mine.py", f"{path}, line 7", "TypeError"):
        assert word in str(caught.value)
    assert registry["soup"].summary == "Make soup."
    assert registry["soup"].check({"rate": "0.25"}) == {"rate": 0.25}


ENDINGS = {
    "__import__('sys').exit(3)": ("SystemExit", "3"),
    "end(KeyboardInterrupt)": ("KeyboardInterrupt",),
    "end(type('Odd', (BaseException,), {}))": ("Odd",),
}
END = """
def end(kind):
    raise kind
"""


@pytest.mark.parametrize(("answer", "words"), ENDINGS.items())
def test_one_that_ends_the_process_is_an_exception_too(registry, tmp_path, answer, words):
    """Also where no registry stands between: there the block names whose code ended it."""
    path = write(tmp_path / "mine.py", SOUP.format(answer=answer) + END)
    load_plugins([str(path)])
    line = 7 if "exit" in answer else 10
    with refused("soup", f"{path}, line {line}", *words):
        registry["soup"].call([])
    (raw,) = registry._methods.values()
    with refused("a network", "mine.py", f"line {line}", *words), exits_named("a network"):
        raw.call([])


@pytest.fixture
def pythons_own_ctrl_c():
    """What SIGINT does in a program that says nothing of it; whatever other tests have left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before or signal.default_int_handler)  # None: of no Python code


def test_ctrl_c_inside_a_plug_in_is_nobodys_failure(registry, tmp_path, pythons_own_ctrl_c):
    """A signal that arrives in the middle of its code; and what FedMerge itself raises under it."""
    path = write(tmp_path / "mine.py", SOUP.format(answer="parents()"))
    load_plugins([str(path)])

    def stop():
        raise KeyboardInterrupt

    for interrupt in (stop, lambda: signal.raise_signal(signal.SIGINT)):
        with pytest.raises(KeyboardInterrupt):
            registry["soup"].call(interrupt)


def test_so_does_one_inside_a_method_of_a_class(registry, tmp_path):
    load_plugins([str(write(tmp_path / "node.py", NODE))])
    node = registry["node"].call([], rate=2.0)
    assert (node.rate, node.observe(2)) == (2.0, 0.5)
    with refused("node", "node.py", "line 10", "ZeroDivisionError"):
        node.observe(0)


def test_an_exception_is_blamed_on_the_plug_in_it_came_out_of(registry, tmp_path):
    path = write(tmp_path / "mine.py", SOUP.format(answer="1 / 0"))
    load_plugins([str(path)])
    (raw,) = registry._methods.values()
    with pytest.raises(ZeroDivisionError) as caught:
        raw.call([])
    assert "mine.py" in str(blamed(caught.value, "a network"))
    assert blamed(ValueError("ours")) is None


def test_a_restricted_process_loads_what_is_allowed_and_nothing_else(registry, tmp_path):
    mine = write(tmp_path / "mine.py", SOUP.format(answer="1"))
    theirs = write(tmp_path / "theirs.py", SOUP.format(answer="2").replace('"soup"', '"theirs"'))
    restrict_plugins([str(mine)])
    assert registry.names() == ["soup"]
    for name in (str(theirs), "os"):
        with refused("policy.yaml"):
            load_module(name)


def test_an_entry_point_is_loaded_when_its_name_is_asked_for(registry, tmp_path, monkeypatch):
    write(tmp_path / "installed_soup.py", SOUP.format(answer="3"))
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("soup", "installed_soup:soup", "fedmerge.tests")
    monkeypatch.setattr(plugins, "entry_points", lambda: importlib.metadata.EntryPoints([point]))
    assert not loaded_plugins()
    assert registry["soup"].call([]) == 3
    assert [entry.name for entry in registry.among([])] == ["soup"]


def test_entry_points_are_not_loaded_where_the_policy_does_not_list_them(registry, tmp_path, monkeypatch):
    write(tmp_path / "installed_soup.py", SOUP.format(answer="3"))
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("soup", "installed_soup:soup", "fedmerge.tests")
    monkeypatch.setattr(plugins, "entry_points", lambda: importlib.metadata.EntryPoints([point]))
    restrict_plugins([])
    assert registry.names() == []


def test_what_one_plug_in_adds_counts_only_where_it_is_named(registry, tmp_path):
    path = write(tmp_path / "mine.py", SOUP.format(answer="1"))
    load_plugins([str(path)])
    assert registry.among([]) == []
    assert [entry.name for entry in registry.among([str(path)])] == ["soup"]
