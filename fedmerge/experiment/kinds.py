"""The kinds of methods in a table of results."""

from __future__ import annotations

KINDS = ["reference", "alone", "pooled", "oracle", "fusion", "test-time"]
"""In the order in which tables show them."""
TRIED = ("fusion", "test-time")
"""The kinds under test; the others are references."""
REFERENCE = "reference"
MAJORITY = "majority-class"
"""The one method of the kind ``REFERENCE``: the commonest class for every image (``experiment.majority``)."""

TRAINING, FINE_TUNE, FUSION, EVALUATION = "training", "fine-tune", "fusion", "evaluation"
DIAGNOSIS = "diagnosis"
"""Words in the names of a run's checkpoints."""
START = "start"
"""The model of the rounds, in a pool of that name where something evaluates it."""
MODELS = ("pool", START, "*/fused", "*/references")
"""Where a federation's models lie: only those of a finished checkpoint count."""
VERSIONS = {"rounds": 1, "fine-tune": 1, "pooled": 1, "evaluate": 2}
"""The version of each stage's meaning: raise it where one configuration gives other numbers than before."""
COEFFICIENTS = "coefficients.parquet"
"""Where an evaluation, and a study, keep the coefficients of every batch."""
LOOKS = "fine-tune"
"""The stage whose tasks remark on their images: every variant, seed and federation has one."""
RESUMING = ("rounds", "fine-tune")
"""Stages that go on with the checkpoints of an interrupted attempt; the others begin anew."""
