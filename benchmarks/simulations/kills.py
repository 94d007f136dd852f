"""A study is killed at random moments, again and again, and ends with the bits of one that was not.

    python -m benchmarks.simulations.kills [--kills 20] [--out benchmarks/results/kills.json]

Each kill is a SIGKILL of the process, at a moment drawn from the time that an unbroken study takes; the same
command goes on. At the end every row (but for what a clock fills) and every model must be the same, and
``fedmerge verify`` must find every file as it was written.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.speed.bench_engine import STUDY
from fedmerge.experiment.folder.verify import verify
from fedmerge.models import state_hash
from fedmerge.models.weights import load_weights
from fedmerge.storage.files import write_json

CLOCK = ["seconds", "training_seconds"]


def command(study: Path, out: Path) -> list[str]:
    """Return the command that runs what the study has not finished."""
    return [sys.executable, "-m", "fedmerge", "bench", str(study), "--out", str(out)]


def outcome(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return all rows without what a clock fills, and the hash of every model."""
    rows = pd.read_parquet(folder / "results.parquet").drop(columns=CLOCK)
    models = sorted(folder.rglob("*.safetensors"))
    return rows, {str(path.relative_to(folder)): state_hash(load_weights(path)) for path in models}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--study", type=Path, help="a study's YAML file instead of the small one")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = args.study or folder / "study.yaml"
        if args.study is None:
            study.write_text(json.dumps(STUDY))
        began = time.perf_counter()
        subprocess.run(command(study, folder / "whole"), check=True, capture_output=True)
        takes = time.perf_counter() - began
        seen, starts = [], 0
        while len(seen) < args.kills:
            starts += 1
            child = subprocess.Popen(
                command(study, folder / f"killed-{starts}"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(float(rng.uniform(0.1, 1)) * takes)
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
                seen.append(len(list((folder / f"killed-{starts}").glob("jobs/*/done"))))
            child.wait()
            subprocess.run(command(study, folder / f"killed-{starts}"), check=True, capture_output=True)
            rows, models = outcome(folder / f"killed-{starts}")
            expected = outcome(folder / "whole")
            pd.testing.assert_frame_equal(rows, expected[0])
            assert models == expected[1]
            assert verify(folder / f"killed-{starts}").good
    result = {"kills": len(seen), "jobs_done_when_killed": seen, "unbroken_seconds": round(takes, 1)}
    result |= {"same_bits": len(seen), "verified": len(seen)}
    print(json.dumps(result, indent=1))
    if args.out is not None:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
