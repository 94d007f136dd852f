"""A deployment on disk: the server's folder, and one for the node of each hospital, on its own machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field

from fedmerge.errors import FedMergeError, short
from fedmerge.federation.admission import Admitted, read_admitted, write_admitted
from fedmerge.federation.deployment.flower import Flower, connection
from fedmerge.federation.deployment.keys import (
    AUTHORITY,
    NODE,
    SERVER,
    issue,
    make_authority,
    make_node_key,
    read_public,
)
from fedmerge.federation.deployment.processes import environment
from fedmerge.files import saying
from fedmerge.validation import is_there, load_yaml, validate

LOCAL = ("localhost", "127.0.0.1")
Port = Annotated[int, Field(ge=1, le=65535)]


class _Described(BaseModel):
    """Settings that lie in a YAML file of their folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def _save(self, path: Path) -> None:
        path.write_text(yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False))

    @classmethod
    def _load(cls, path: Path) -> Self:
        return validate(cls, load_yaml(path), str(path))


class ServerSettings(_Described):
    """host, port: where hospitals reach the gate. superlink_port: of the SuperLink, on this machine alone."""

    host: str = "0.0.0.0"
    port: Port
    superlink_port: Port


class NodeSettings(_Described):
    """site: the hospital. cohort: the file with its images, from the node's folder. server: HOST:PORT."""

    site: str
    cohort: str
    server: str = Field(pattern=r"^\[?[^/\s]+\]?:\d+$")
    device: str | None = None


class ServerFolder:
    """The server's side: authority, certificate, Flower's configuration, SuperLink's state and log."""

    def __init__(self, path: Path) -> None:
        """Raises FedMergeError where there is none, or its settings are wrong."""
        self.path = path.resolve()
        self.settings = ServerSettings._load(_there(self.path / "server.yaml", "server"))

    @classmethod
    def make(
        cls, path: Path, names: Sequence[str], host: str, port: int, superlink_port: int
    ) -> ServerFolder:
        """Make one; FedMergeError where one is. names: under which hospitals reach the server."""
        given = {"host": host, "port": port, "superlink_port": superlink_port}
        settings = validate(ServerSettings, given, "the server's settings")
        _new(path)
        make_authority(path)
        issue(path, [*names, *LOCAL])
        home = path / "flwr"
        home.mkdir()
        text = connection("deployment", f"127.0.0.1:{superlink_port}", path / f"{AUTHORITY}.crt")
        (home / "config.toml").write_text(text)
        settings._save(path / "server.yaml")
        return cls(path)

    @property
    def authority(self) -> Path:
        """The certificate that every hospital gets."""
        return self.path / f"{AUTHORITY}.crt"

    @property
    def certificate(self) -> tuple[Path, Path]:
        """The server's certificate and its key."""
        return self.path / f"{SERVER}.crt", self.path / f"{SERVER}.key"

    @property
    def superlink(self) -> str:
        """HOST:PORT of the SuperLink."""
        return f"127.0.0.1:{self.settings.superlink_port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment of the server's programs."""
        return environment(self.path / "flwr")

    @property
    def flower(self) -> Flower:
        """Flower's command line for this server."""
        return Flower(self.env, "deployment", self.path / "superlink.db")

    def admit(self, name: str, public_key: Path) -> int:
        """Let the node with this key in, under the hospital's name; returns its node id."""
        key = read_public(public_key)
        node = self.flower.register(public_key, name)
        write_admitted(self.admitted, self.hospitals() | {node: Admitted(name=name, key=key)})
        return node

    def nodes(self) -> list[tuple[str, str, int]]:
        """Name, status (``registered``, ``online``, ``offline``) and id of every node that was let in."""
        known = {node: hospital.name for node, hospital in self.hospitals().items()}
        return [(known.get(node, "?"), status, node) for node, status in self.flower.nodes().items()]

    @property
    def admitted(self) -> Path:
        """The file with the names of the nodes that were let in."""
        return self.path / "admitted.yaml"

    def hospitals(self) -> dict[int, Admitted]:
        """The hospitals that were let in, by node id."""
        return (read_admitted(self.admitted) or {}) if self.admitted.is_file() else {}

    def command(self) -> list[str]:
        """That starts the SuperLink."""
        certificate, key = map(str, self.certificate)
        tls = ["--ssl-ca-certfile", str(self.authority), "--ssl-certfile", certificate, "--ssl-keyfile", key]
        where = ["--host", "127.0.0.1", "--port", str(self.settings.superlink_port)]
        state = ["--database", str(self.path / "superlink.db")]
        return [
            "flower-superlink", *where, *tls, *state,
            "--enable-supernode-auth", "--disable-runtime-dependency-installation",
        ]  # fmt: skip


class NodeFolder:
    """A hospital's side: its key, the authority it trusts, where its images are described, Flower's files."""

    def __init__(self, path: Path) -> None:
        """Raises FedMergeError where there is none, or its settings are wrong."""
        self.path = path.resolve()
        self.settings = NodeSettings._load(_there(self.path / "node.yaml", "node"))

    @classmethod
    def make(
        cls, path: Path, site: str, cohort: Path, server: str, authority: Path, device: str | None = None
    ) -> NodeFolder:
        """Make one with a new key; FedMergeError where one is. ``node.pub`` is for the server."""
        given = {"site": site, "cohort": str(cohort.resolve()), "server": server, "device": device}
        settings = validate(NodeSettings, given, "the node's settings")
        for file in (cohort, authority):
            if not file.is_file():
                raise FedMergeError(f"there is no file '{file}': check the path.")
        _new(path)
        shutil.copyfile(authority, path / f"{AUTHORITY}.crt")
        make_node_key(path)
        (path / "flwr").mkdir()
        settings._save(path / "node.yaml")
        return cls(path)

    @property
    def public_key(self) -> Path:
        """What the server must know of this hospital."""
        return self.path / f"{NODE}.pub"

    @property
    def env(self) -> dict[str, str]:
        """The environment of the node's programs."""
        return environment(self.path / "flwr")

    def command(self, port: int) -> list[str]:
        """That starts the SuperNode; ``port``, on this machine alone, is for its own processes."""
        settings = self.settings
        said = {"site": settings.site, "cohort": str(self.path / settings.cohort), "device": settings.device}
        said["folder"] = str(self.path)
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in said.items() if value is not None)
        return [
            "flower-supernode", "--superlink", settings.server,
            "--root-certificates", str(self.path / f"{AUTHORITY}.crt"),
            "--auth-supernode-private-key", str(self.path / f"{NODE}.key"),
            "--host", "127.0.0.1", "--port", str(port), "--node-config", config,
        ]  # fmt: skip


def _new(path: Path) -> None:
    if is_there(path) and (not path.is_dir() or any(path.iterdir())):
        raise FedMergeError(f"'{path}' is already there and not empty: choose a new folder.")
    with saying(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


def _there(path: Path, kind: str) -> Path:
    if not is_there(path):
        raise FedMergeError(
            f"'{short(path.parent)}' is no {kind}'s folder: make one with `fedmerge deployment {kind}`."
        )
    return path
