"""The kinds of methods in a table of results."""

from __future__ import annotations

KINDS = ["reference", "alone", "pooled", "oracle", "fusion", "test-time"]
"""In the order of tables."""
TRIED = ("fusion", "test-time")
"""Those that are put to the test; the others stand beside them."""
REFERENCE = "reference"
MAJORITY = "majority-class"
"""The one method of the kind ``REFERENCE``: the commonest class for every image (``experiment.majority``)."""
