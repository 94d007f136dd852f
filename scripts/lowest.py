"""Install the lowest version that each lower bound in pyproject.toml allows, and run a few tests with them.

`make lowest` does it in an environment of its own, `.venv-lowest`; it takes several GB and, with a fast
index, some minutes. `--dry-run` asks the index alone whether they go together. `--keep NAME` leaves a package
free, which then is the newest.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("dev", "pretrained")  # dev has the others
TESTS = (
    "tests/data", "tests/models/test_pool.py", "tests/merging/test_laws.py",
    "tests/federation/statistics", "tests/federation/test_server.py",
    "tests/federation/test_strategy.py",
    "tests/federation/test_flower_grid.py", "tests/federation/test_privacy.py",
    "tests/federation/test_privacy_accounting.py",
    "tests/federation/secure", "tests/federation/deployment",
    "tests/experiment/test_federated_fusion.py",
    "tests/test_cli.py",
)  # fmt: skip


def lower_bounds(text: str) -> dict[str, str]:
    """The lower bound of every requirement in a pyproject.toml that has one, by name."""
    project = tomllib.loads(text)["project"]
    given = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():  # one may name others: fedmerge[...]
        given += extra
    found = {}
    for requirement in given:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?[^;]*?>=\s*([0-9][^,;\s]*)", requirement)
        if match:
            found[match[1]] = match[2]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-lowest")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--keep", action="append", default=[])
    args = parser.parse_args()
    bounds = lower_bounds((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    venv.create(args.venv, with_pip=True)
    python, constraints = args.venv / "bin" / "python", args.venv / "lowest.txt"
    lines = [f"{name}=={bound}" for name, bound in bounds.items() if name not in args.keep]
    constraints.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)
    install = [str(python), "-m", "pip", "install", "--constraint", str(constraints)]
    install += ["--dry-run"] if args.dry_run else ["--quiet"]
    done = subprocess.run([*install, "--editable", f".[{','.join(EXTRAS)}]"], cwd=ROOT)
    if done.returncode or args.dry_run:
        return done.returncode
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    return subprocess.run([str(python), "-m", "pytest", *TESTS], cwd=ROOT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
