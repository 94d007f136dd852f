"""The kinds of methods in a table of results."""

from __future__ import annotations

KINDS = ["reference", "alone", "pooled", "oracle", "fusion", "test-time"]
"""In the order in which tables show them."""
TRIED = ("fusion", "test-time")
"""The kinds under test; the others are references."""
REFERENCE = "reference"
MAJORITY = "majority-class"
"""The one method of the kind ``REFERENCE``: the commonest class for every image (``experiment.majority``)."""
