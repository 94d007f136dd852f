"""What only an extra installs: its absence is a sentence that names the command."""

import ast
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedmerge
from fedmerge.cli import app
from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder.query import query
from fedmerge.extras import extra
from tests.facts import refused

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_a_missing_package_is_a_sentence_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "absent", None)
    with pytest.raises(FedMergeError) as caught, extra("here", "the thing", "do without"):
        import absent.inner  # noqa: F401
    assert all(
        word in str(caught.value) for word in ("the thing", "absent", "not installed", "or do without")
    )
    assert "pip install 'fedmerge[here]'" in str(caught.value)


def test_a_package_that_cannot_be_loaded_says_why():
    with refused("libmissing.so", "half"), extra("here", "it"):
        raise ImportError("libmissing.so: no such file", name="half.core")


def test_without_duckdb_a_question_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with refused("fedmerge[results]", "duckdb"):
        query("SELECT 1", tmp_path)


@pytest.mark.parametrize("package", ["uvicorn", "prometheus_client"])
def test_without_the_page_s_packages_watch_names_the_command(package, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "fedmerge.federation.deployment.page", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    done = CliRunner().invoke(app, ["deployment", "watch", str(tmp_path)])
    assert isinstance(done.exception, FedMergeError)
    assert f"{package}, which is not installed: pip install 'fedmerge[deployment]'" in str(done.exception)


def test_every_extra_that_code_names_is_one():
    named = set()
    for path in (ROOT / "fedmerge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "extra":
                named.add(ast.literal_eval(node.args[0]))
    assert named == PROJECT["optional-dependencies"].keys() - {"dev", "all", "docs"}


def test_the_version_is_the_installed_one():
    assert fedmerge.__version__ == version("fedmerge")
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"fedmerge {fedmerge.__version__}\n")
