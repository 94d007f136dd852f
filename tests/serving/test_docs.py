"""docs/serving.md: its limits are the service's, and its curl commands work word by word."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.speed.serving import Running, models_in
from fedmerge.serving.limits import Limits

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def test_the_table_of_limits_is_the_service_s():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,.]+) \|", PAGE, re.MULTILINE)
    assert {name: float(value.replace(",", "")) for name, value in rows} == Limits().model_dump()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_the_curl_commands_work_word_by_word(tmp_path):
    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    commands = block.splitlines()
    assert len(commands) == 13
    with Running(models_in(tmp_path / "models"), tmp_path, "--samples", "digits") as running:
        for command in commands:
            said = command.replace("http://127.0.0.1:8020", running.where).replace(
                "curl -s", "curl -s --fail"
            )
            done = subprocess.run(said, shell=True, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
