"""No function has more than eight parameters but the doors that users' programs call by keyword."""

from __future__ import annotations

import ast
from pathlib import Path

import fedmerge
from fedmerge.testtime import TESTTIME

PACKAGE = Path(fedmerge.__file__).parent
MOST = 8
DOORS = {
    "analysis/metrics/contract.py": "metric",
    "merging/merge.py": "merge",
    "training/inmerge.py": "InMerge",
    "workflows/analyse.py": "analyse",
    "workflows/bench/bench.py": "bench",
    "workflows/deployed.py": "run_deployed",
    "workflows/run.py": "run",
}
"""By file: what stays above; CONTRIBUTING.md says why."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function: Function) -> list[ast.arg]:
    """All parameters but that of the object or class."""
    given = function.args
    names = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return [each for each in names if each.arg not in ("self", "cls")]


def above(tree: ast.Module, most: int = MOST) -> list[tuple[str, Function]]:
    """The functions of a module with more parameters; a constructor goes by the name of its class."""
    owner = {
        each: node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for each in node.body
        if isinstance(each, Function) and each.name == "__init__"
    }
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    return [(owner.get(each, each.name), each) for each in functions if len(parameters(each)) > most]


def test_a_count_of_parameters():
    text = "class C:\n    def __init__(self, a, /, b, *c, d=1, **e): ...\nasync def g(a, b, c): ..."
    assert {name for name, _ in above(ast.parse(text), most=2)} == {"C", "g"}
    assert above(ast.parse(text), most=3) == []


def test_above_eight_there_are_only_doors():
    methods = {method.call.__name__ for method in TESTTIME if isinstance(method.call, type)}
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, function in above(ast.parse(path.read_text(encoding="utf-8"))):
            own = [each for each in parameters(function) if each.arg != "models"]
            if not (name in methods and len(own) <= MOST):
                found.add((path.relative_to(PACKAGE).as_posix(), name))
    assert found == set(DOORS.items())


def test_a_door_is_called_by_keyword():
    """At most two parameters, such as the models and the method, can be given by their place."""
    for path, name in DOORS.items():
        function = dict(above(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))))[name]
        assert len([each for each in function.args.args if each.arg != "self"]) <= 2, path
