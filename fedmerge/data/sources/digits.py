"""The optical digits that ship with scikit-learn, read without importing it."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TABLE = Path("datasets") / "data" / "digits.csv.gz"


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images (1797 x 8 x 8, levels 0 to 16) and the labels (1797) of the optical digits.

    scikit-learn's own file is read, because importing scikit-learn takes longer than training a hospital on
    the digits. Where a version keeps the file elsewhere, ``sklearn.datasets.load_digits`` finds it.
    """
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        if (file := Path(folder) / TABLE).is_file():
            with gzip.open(file, "rt", encoding="ascii") as lines:
                table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images.astype(np.uint8), data.target.astype(np.int64)
