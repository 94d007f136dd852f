"""Half of a crossed interval, printed points of Student's t, and how often an interval has the truth."""

from __future__ import annotations

import math

import numpy as np

from fedmerge.analysis.intervals import crossed_interval

RNG = np.random.default_rng
T = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 8: 2.30600, 18: 2.10092}
"""97.5 % points of Student's t, from a printed table."""


def half(values: np.ndarray, **options) -> np.ndarray:
    found = crossed_interval(values if values.ndim == 3 else values[:, :, None], **options)
    np.testing.assert_allclose(found.high - found.mean, found.mean - found.low, atol=1e-12)
    return found.high - found.mean


def coverage(seeds, sites, rest, shape, columns=4000) -> tuple[float, float]:
    """How often the truth is inside, and the mean width in widths of the interval that knows the variance."""
    rng, (n_seeds, n_sites) = RNG(11), shape
    values = seeds * rng.normal(size=(n_seeds, 1, columns)) + sites * rng.normal(size=(1, n_sites, columns))
    values = values + rest * rng.normal(size=(n_seeds, n_sites, columns))
    found = crossed_interval(values)
    error = math.sqrt(seeds**2 / n_seeds + sites**2 / n_sites + rest**2 / (n_seeds * n_sites))
    width = (found.high - found.low).mean() / (2 * 1.95996 * error)
    return ((found.low <= 0) & (found.high >= 0)).mean(), width
