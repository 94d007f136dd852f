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
