"""File modes of a deployment's folder: only its owner may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fedmerge.errors import FedMergeError


def mend_modes(folder: Path) -> list[str]:
    """Remove other users' rights from a folder and its private keys; return a sentence for each change.

    Raises FedMergeError if that fails: a key that others can read must not be used.
    """
    sentences = []
    for path in (folder, *sorted(folder.glob("*.key"))):
        found = path.stat()
        if found.st_uid not in (os.geteuid(), 0):
            raise FedMergeError(f"'{path}' belongs to another user, who can read it: chown it.")
        if not found.st_mode & 0o077:
            continue
        wanted = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
        had = f"'{path}' was open to other users of this machine (mode {stat.S_IMODE(found.st_mode):04o})"
        try:
            if path.is_symlink():
                raise PermissionError
            path.chmod(wanted)
        except OSError:
            raise FedMergeError(
                f"{had}: set it to {wanted:04o} (chmod), or keep the folder elsewhere."
            ) from None
        advice = "" if path == folder else "; if they may have read it, exchange the key"
        sentences.append(f"{had}; it is {wanted:04o} now{advice}")
    return sentences
