"""The content of a cohort's sources: what names the work that was done with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedmerge.data.sources import Arrays, source_key
from fedmerge.data.spec import CohortSpec
from fedmerge.errors import FedMergeError
from fedmerge.storage.contents import digest_of


def content_of(source: str | Arrays, folder: Path | None = None, size: int | None = None) -> str:
    """Return a digest of the images and labels of a source, as its files hold them.

    A source without files (``digits``), or whose files are not here, is its own text. folder, size: of the
    cohort (``load_source``).
    """
    path = file_of(source, folder, size)
    return str(source) if path is None else digest_of(path)


def cohort_content(spec: CohortSpec) -> str:
    """Return a digest of the content of all sources of a cohort, in the order of its sites."""
    parts = [content_of(spec.source_of(site), spec.folder, spec.size) for site in spec.sites]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def files_of(spec: CohortSpec) -> list[Path]:
    """Return the files and folders that the sources of a cohort read, each once."""
    found = (file_of(spec.source_of(site), spec.folder, spec.size) for site in spec.sites)
    return list(dict.fromkeys(path for path in found if path is not None))


def file_of(source: str | Arrays, folder: Path | None = None, size: int | None = None) -> Path | None:
    """Return the file or folder that a source reads; None where there is none."""
    try:
        key = source_key(source, folder, size)
    except FedMergeError:  # whoever reads the source says what is wrong with it
        return None
    return key if isinstance(key, Path) else None
