"""What the figures and tables of the documentation come from; README.md says which command makes which.

Run everything from the top of the repository: ``python -m benchmarks.ROOM.NAME``.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
