"""Silence for ``torch.export``, which prints pages about what it cannot follow before it raises."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block nothing is logged, warned of or printed to stderr.

    Logging as a whole is off: PyTorch makes its loggers and handlers on the way.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
