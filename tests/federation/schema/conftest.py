"""The hostile answers and the tiny federation of ``benchmarks/hostile_messages.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
