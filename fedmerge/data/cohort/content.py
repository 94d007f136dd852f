"""The content of a cohort's sources: what names the work that was done with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedmerge.data.cohort.fusion import FusionData
from fedmerge.data.cohort.spec import CohortSpec
from fedmerge.data.reading import Reading
from fedmerge.data.sources.source_kinds import SourceRequest
from fedmerge.data.sources.sources import Arrays, kind_of, parse_source, source_key
from fedmerge.errors import FedMergeError
from fedmerge.storage.contents import digest_of


def content_of(
    source: str | Arrays, folder: Path | None = None, size: int | None = None, how: Reading | None = None
) -> str:
    """Return a digest of the images and labels of a source, as its files hold them.

    A source without files (``digits``), or whose files are not here, is its own text. folder, size, how: of
    the cohort (``load_source``).
    """
    path = file_of(source, folder, size)
    if path is None:
        return str(source)
    assert isinstance(source, str)
    listed = kind_of(source).files
    if listed is None:
        return digest_of(path)
    try:
        files = listed(SourceRequest(source, parse_source(source)[1], folder, size, how=how or Reading()))
    except FedMergeError:  # whoever reads the source says what is wrong with it
        files = []
    parts = [digest_of(path), *(digest_of(file) for file in files if file.is_file())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def cohort_content(spec: CohortSpec) -> str:
    """Return a digest of the content of all sources of a cohort, in the order of its sites."""
    parts = [
        content_of(spec.source_of(site), spec.folder, spec.size, spec.reading_of(site)) for site in spec.sites
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def public_content(data: FusionData | None, folder: Path | None) -> str:
    """Return the content of the server's public images; empty where a fusion takes those of hospitals.

    folder: of the cohort.
    """
    return "" if data is None or data.source is None else content_of(data.source, folder)


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
