"""The kinds of methods in a table of results, and the stages that make it."""

from __future__ import annotations

KINDS = ["reference", "alone", "pooled", "oracle", "fusion", "test-time"]
"""In the order in which tables show them."""
TRIED = ("fusion", "test-time")
"""The kinds under test; the others are references."""
REFERENCE = "reference"
MAJORITY = "majority-class"
"""The one method of the kind ``REFERENCE``: the commonest class for every image (``experiment.majority``)."""

ALONE, FUSION, TEST_TIME = "alone", "fusion", "test-time"
"""Further kinds of rows; POOLED is one, too."""

ROUNDS, FINE_TUNE, POOLED, DIAGNOSIS, EVALUATE = "rounds", "fine-tune", "pooled", "diagnosis", "evaluate"
"""The stages of an experiment: the kinds of its tasks."""
TRAINING, EVALUATION = "training", "evaluation"
"""Words in the names of a run's checkpoints."""
START = "start"
"""The model of the rounds, in a pool of that name where something evaluates it."""
MODELS = ("pool", START, "*/fused", "*/references")
"""Where a federation's models lie: only those of a finished checkpoint count."""
VERSIONS = {ROUNDS: 1, FINE_TUNE: 1, POOLED: 1, EVALUATE: 3}
"""The version of each stage's meaning: raise it where one configuration gives other numbers than before."""
COEFFICIENTS = "coefficients.parquet"
"""Where an evaluation, and a study, keep the coefficients of every batch."""
LOOKS = FINE_TUNE
"""The stage whose tasks remark on their images: every variant, seed and federation has one."""
RESUMING = (ROUNDS, FINE_TUNE)
"""Stages that go on with the checkpoints of an interrupted attempt; the others begin anew."""
