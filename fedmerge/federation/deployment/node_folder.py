"""The folder of a hospital's node, on its own machine: its key, settings, policy and records."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from pathlib import Path

from pydantic import Field

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.certificates import read_certificates
from fedmerge.federation.deployment.described import Described, new_folder, settings_file
from fedmerge.federation.deployment.keys import (
    AUTHORITY,
    NODE,
    make_node_key,
)
from fedmerge.federation.deployment.processes import environment
from fedmerge.federation.hospital.sums.rules import SumRules
from fedmerge.federation.policy.rules import write_policy
from fedmerge.schema.validation import validate
from fedmerge.storage.files import saying

SECRET = "tasks.secret"  # with it, a node's processes prove to the SuperNode that they are its own


class NodeSettings(Described):
    """The settings of a node.

    site: the hospital. cohort: the file with its images, from the node's folder. server: HOST:PORT. sums: the
    rules for sums over its images (``sums.rules.SumRules``); only what differs from the defaults.
    """

    site: str
    cohort: str
    server: str = Field(pattern=r"^\[?[^/\s]+\]?:\d+$")
    device: str | None = None
    sums: SumRules | None = None


class NodeFolder:
    """The folder of a node: its key, the authority it trusts, the path of its images, Flower's files."""

    def __init__(self, path: Path) -> None:
        """Raises FedMergeError if the folder is missing or its settings are wrong."""
        self.path = path.resolve()
        self.settings = NodeSettings.load(settings_file(self.path / "node.yaml", "node"))

    @classmethod
    def make(
        cls,
        path: Path,
        site: str,
        cohort: Path,
        server: str,
        authority: Path,
        device: str | None = None,
        minimum_images: int | None = None,
    ) -> NodeFolder:
        """Make a folder with a new key; ``node.pub`` is for the server. Raises FedMergeError if it exists."""
        given: dict[str, object] = {"site": site, "cohort": str(cohort.resolve()), "server": server}
        given |= {"device": device}
        given |= {} if minimum_images is None else {"sums": {"minimum_images": minimum_images}}
        settings = validate(NodeSettings, given, "the node's settings")
        for file in (cohort, authority):
            if not file.is_file():
                raise FedMergeError(f"there is no file '{file}': check the path.")
        read_certificates(authority)
        new_folder(path)
        shutil.copyfile(authority, path / f"{AUTHORITY}.crt")
        make_node_key(path)
        (path / "flwr").mkdir()
        write_policy(path)
        settings.save(path / "node.yaml")
        return cls(path)

    @property
    def public_key(self) -> Path:
        """The public key of this hospital, which the server must admit."""
        return self.path / f"{NODE}.pub"

    @property
    def env(self) -> dict[str, str]:
        """The environment of the node's programs."""
        return environment(self.path / "flwr")

    def command(self, port: int) -> list[str]:
        """Return the command that starts the SuperNode. port: for its own processes, on this machine only."""
        settings = self.settings
        said = {"site": settings.site, "cohort": str(self.path / settings.cohort), "device": settings.device}
        said["folder"] = str(self.path)
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in said.items() if value is not None)
        module = "fedmerge.federation.deployment.supernode"
        return [
            sys.executable, "-P", "-m", module, "--superlink", settings.server,
            "--root-certificates", str(self.path / f"{AUTHORITY}.crt"),
            "--auth-supernode-private-key", str(self.path / f"{NODE}.key"),
            "--host", "127.0.0.1", "--port", str(port), "--node-config", config,
            "--isolation", "process", "--superexec-auth-secret-file", str(self.path / SECRET),
        ]  # fmt: skip

    def new_secret(self) -> None:
        """Make a new secret for this start of the node, readable only by its owner."""
        path = self.path / SECRET
        with saying(path):
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))

    def tasks(self, port: int, parent: int) -> list[str]:
        """Return the command that answers the SuperNode at ``port`` with the installed FedMerge.

        parent: the SuperNode's process, with which it ends.
        """
        module = "fedmerge.federation.deployment.tasks"
        return [sys.executable, "-P", "-m", module, str(self.path), f"127.0.0.1:{port}", str(parent)]
