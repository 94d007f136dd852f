"""The lowest versions are those that pyproject.toml says, all of them."""

import importlib.util
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("lowest", ROOT / "scripts" / "lowest.py")
lowest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lowest)


def test_lower_bounds_are_read_with_extras_upper_bounds_and_comments():
    text = """
[project]
dependencies = [
  "a>=1.2",  # why
  "b_c-d[x, y]>=3,<4; python_version > '3'", "free",
]
[project.optional-dependencies]
dev = ["fedmerge[other]", "e <2, >= 1.0.post1"]
other = ["f>=4"]
"""
    assert lowest.lower_bounds(text) == {"a": "1.2", "b_c-d": "3", "e": "1.0.post1", "f": "4"}


def test_every_requirement_of_the_project_has_a_lower_bound_or_is_stubs():
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    given = project["dependencies"] + [name for name in extras if not name.startswith("fedmerge[")]
    without = [name for name in given if ">=" not in name]
    assert all(name.startswith("types-") or name.endswith("-stubs") for name in without)
    assert len(lowest.lower_bounds(text)) >= len(given) - len(without) - 5


def test_flower_has_an_upper_bound_because_its_private_modules_are_used():
    (flower,) = [
        r
        for r in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if r.startswith("flwr")
    ]
    used = [path for path in (ROOT / "fedmerge").rglob("*.py") if "from flwr.supercore" in path.read_text()]
    assert used
    assert "<1." in flower


def test_the_tests_that_are_run_are_there():
    assert all((ROOT / path).exists() for path in lowest.TESTS)
