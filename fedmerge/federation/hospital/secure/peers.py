"""The peers of a hospital in secure sums: their public keys, pinned in its own folder, not by the server.

``peers.yaml`` holds them by name. The hospital's administrator adds them; with ``peers: first-use`` in its
policy, the first list that has a name adds its key. A pinned name keeps its key until the administrator
changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.secure.rules import SecureRules
from fedmerge.federation.privacy.identity import fingerprint, read_line, same_key
from fedmerge.schema.validation import load_yaml, validate
from fedmerge.storage.files import make_folder, saying, write_text

PINNED, ASKED = "peers.yaml", "peers-asked.yaml"


class PeersFile(BaseModel):
    """The file ``peers.yaml``: public keys (as in ``node.pub``) by the hospital's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peers: dict[str, str] = {}


class Peers:
    """The peers of one node. folder: None in a simulation, where every key is accepted."""

    def __init__(self, folder: Path | None, rules: SecureRules) -> None:
        self.folder = folder
        self.rules = rules

    def pinned(self) -> dict[str, str]:
        """Return the pinned public keys by name. Raises FedMergeError for a damaged file."""
        return self._read(PINNED)

    def asked(self) -> dict[str, str]:
        """Return the keys that peers came with and that are not pinned, by name; they wait for ``pin``."""
        return self._read(Path("records") / ASKED)

    def pin(self, new: Mapping[str, str]) -> None:
        """Pin these keys, replacing those of the same names. Raises FedMergeError for an invalid key."""
        for name, key in new.items():
            if read_line(key) is None:
                raise FedMergeError(
                    f"the key for '{name}' is no public key of a node: ask it for its node.pub."
                )
        with self._locked():
            self._write(PINNED, self.pinned() | dict(new))
            waiting = {name: key for name, key in self.asked().items() if name not in new}
            self._write(Path("records") / ASKED, waiting)

    def check(self, found: Mapping[str, str], own: str) -> None:
        """Raise FedMergeError unless all keys are pinned; with ``first-use``, pin unknown names.

        found: the keys in the list of a secure sum, by name. own: the name of this hospital.
        """
        if self.folder is None:
            return
        pinned = self.pinned()
        others = {name: key for name, key in found.items() if name != own}
        strange = {name: key for name, key in others.items() if name not in pinned}
        changed = [name for name in others if name in pinned and not same_key(pinned[name], others[name])]
        new = strange if self.rules.peers == "listed" else {}
        if changed or new:
            with self._locked():
                waiting = new | {name: others[name] for name in changed}
                self._write(Path("records") / ASKED, self.asked() | waiting)
            name = (changed or sorted(new))[0]
            how = "comes with another key than the one pinned here" if changed else "is not pinned here"
            raise FedMergeError(
                f"'{name}' ({fingerprint(others[name])}) {how}, so '{own}' does not sum with it: compare the "
                f"key with that hospital, then `fedmerge deployment peers NODE --add {name} FILE`."
            )
        if strange:
            self.pin(strange)

    def _read(self, name: str | Path) -> dict[str, str]:
        assert self.folder is not None
        path = self.folder / name
        return dict(validate(PeersFile, load_yaml(path), str(path)).peers) if path.is_file() else {}

    def _write(self, name: str | Path, keys: Mapping[str, str]) -> None:
        assert self.folder is not None
        text = yaml.safe_dump(PeersFile(peers=dict(sorted(keys.items()))).model_dump(), allow_unicode=True)
        make_folder((self.folder / name).parent)
        write_text(self.folder / name, text)

    def _locked(self) -> FileLock:
        assert self.folder is not None
        with saying(self.folder):
            return FileLock(self.folder / ".peers.lock")
