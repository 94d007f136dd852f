"""The rooms that plain PyTorch projects use must work where Flower and Ray are not installed."""

import subprocess
import sys

import pytest

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('flwr', 'ray'):
            raise ModuleNotFoundError(f'No module named {name!r}')

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize(
    "use",
    [
        "import fedmerge.merging, fedmerge.testtime, fedmerge.training, fedmerge.analysis",
        "import fedmerge as fm; fm.methods(); fm.merge, fm.EntropyAdaptive, fm.InMerge, fm.streams",
    ],
)
def test_rooms_import_without_flower_and_ray(use):
    done = subprocess.run([sys.executable, "-c", BLOCK + use], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_block_itself_blocks():
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + "from fedmerge.federation import Server"],
        capture_output=True,
        text=True,
    )
    assert "No module named 'flwr'" in done.stderr


def test_telemetry_is_off_before_flower_is_imported():
    code = (
        "import os; os.environ.pop('FLWR_TELEMETRY_ENABLED', None); import fedmerge.federation;"
        "from flwr.supercore import telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr


def test_a_merge_of_two_models_imports_nothing_that_it_does_not_need():
    code = """
import sys
import fedmerge as fm
from torch import nn

merged = fm.merge([nn.Linear(2, 2), nn.Linear(2, 2)], "mean").model
assert isinstance(merged, nn.Linear)
heavy = {"starlette", "uvicorn", "duckdb", "medmnist", "matplotlib", "ray", "flwr"}
heavy |= {"pandas", "sklearn", "ot", "typer"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()

import fedmerge.cli
fm.run, fm.bench
extras = {"starlette", "uvicorn", "duckdb", "medmnist", "ray", "prometheus_client", "dp_accounting"}
assert not extras & sys.modules.keys(), extras & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_pytorch_and_schemas():
    code = "import sys, fedmerge.cli; print(*{'torch', 'pydantic', 'numpy', 'yaml'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "", done.stdout + done.stderr
