"""The version of the installed code, which an approval covers beside the experiment."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from fedmerge.version import package_version

PACKAGE = Path(__file__).resolve().parents[2]


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return ``VERSION+HASH``, with the first 16 digits of SHA-256 over all files of the package."""
    return f"{package_version()}+{hash_files(PACKAGE)[:16]}"


def hash_files(folder: Path) -> str:
    """Return the SHA-256 over names and contents of all files below a folder, without compiled files."""
    digest = hashlib.sha256()
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}|{len(content)}|".encode())
        digest.update(content)
    return digest.hexdigest()
