"""Bearer tokens: a file with a line a client, of which only hashes are kept; it may change at any time."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from fedmerge.errors import FedMergeError, short
from fedmerge.serving.refusal import Refusal
from fedmerge.storage.outside import read_bounded

LARGEST = 2**20
LOCAL = "local"
"""The client where no token is asked for."""
LINE = re.compile(r"(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]{0,63}) (?P<hash>[0-9a-f]{64})")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def hash_of(token: str) -> str:
    """Return what the file keeps of a token: its SHA-256, because a token of 256 drawn bits needs no more."""
    return hashlib.sha256(token.encode()).hexdigest()


def add_token(path: Path, name: str) -> str:
    """Draw a token for a client, add its hash to the file, and return the token, which is kept nowhere.

    Raises FedMergeError for a name that is taken, or is none.
    """
    if not NAME.fullmatch(name):
        raise FedMergeError(
            f"'{short(name)}' cannot name a client: use up to 64 letters, digits, '_', '-' and '.'."
        )
    known = read_tokens(path) if path.exists() else {}
    if name in known.values():
        raise FedMergeError(
            f"'{path}' has a token of '{name}' already: take its line out, or use another name."
        )
    token = secrets.token_urlsafe(32)
    line = f"{name} {hash_of(token)}  # {datetime.now(UTC):%Y-%m-%d}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(line)
    return token


def read_tokens(path: Path) -> dict[str, str]:
    """Return the names of clients by the hash of their token. Raises FedMergeError for a line that is
    none."""
    try:
        text = read_bounded(path, LARGEST, "a file of tokens").decode()
    except OSError as error:
        raise FedMergeError(
            f"the tokens in '{short(path)}' cannot be read ({error.strerror}): make one with "
            "fedmerge serve --tokens FILE --new-token NAME."
        ) from None
    except UnicodeDecodeError:
        raise FedMergeError(f"'{short(path)}' is no file of tokens: it is no text.") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if (known := LINE.fullmatch(line)) is None:
            raise FedMergeError(
                f"'{short(path)}', line {number} is no token: a line is a name and the SHA-256 of a token, "
                "as fedmerge serve --tokens FILE --new-token NAME writes them."
            )
        found[known["hash"]] = known["name"]
    return found


class Tokens:
    """Says who calls, by the token of the call; reads the file again where it was changed."""

    def __init__(self, path: Path) -> None:
        """Raises FedMergeError for a file that cannot be read or names no client."""
        self.path = path
        self._state = self._stat()
        self._known = read_tokens(path)
        if not self._known:
            raise FedMergeError(
                f"'{short(path)}' has no token: fedmerge serve --tokens FILE --new-token NAME."
            )

    def client(self, authorization: str | None) -> str:
        """Return the client's name. Raises Refusal for no token, or one that is not in the file."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal(
                401, "this service answers clients with a token: send 'Authorization: Bearer TOKEN'."
            )
        asked, found = hash_of(token.strip()), None
        for known, name in self._current().items():
            if hmac.compare_digest(known, asked):
                found = name
        if found is None:
            raise Refusal(401, "the service does not know this token: ask its people for one.")
        return found

    def _current(self) -> dict[str, str]:
        try:
            if (state := self._stat()) != self._state:
                self._known, self._state = read_tokens(self.path), state
        except (OSError, FedMergeError):
            raise Refusal(503, "the service cannot read its tokens: tell its people.") from None
        return self._known

    def _stat(self) -> tuple[int, int, int]:
        try:
            stat = self.path.stat()
        except OSError as error:
            raise FedMergeError(
                f"the tokens in '{short(self.path)}' cannot be read ({error.strerror}): make one with "
                "fedmerge serve --tokens FILE --new-token NAME."
            ) from None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
