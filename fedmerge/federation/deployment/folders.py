"""A deployment on disk: the server's folder, and one for the node of each hospital, on its own machine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field

from fedmerge.errors import FedMergeError, short, unknown
from fedmerge.federation.admission import Admitted, read_admitted, write_admitted
from fedmerge.federation.deployment.certificates import install, read_certificates
from fedmerge.federation.deployment.flower import Flower, connection
from fedmerge.federation.deployment.keys import (
    AUTHORITY,
    IN_FOLDER,
    LOCAL,
    LOOPBACK,
    NODE,
    SERVER,
    Keeping,
    make_authority,
    make_loopback,
    make_node_key,
    make_request,
    read_public,
    sign_request,
)
from fedmerge.federation.deployment.limits import Limits
from fedmerge.federation.deployment.processes import environment
from fedmerge.federation.policy.audit import audit
from fedmerge.federation.policy.rules import write_policy
from fedmerge.federation.sums.rules import SumRules
from fedmerge.files import locked, saying, write_text
from fedmerge.validation import is_there, load_yaml, validate

SECRET = "tasks.secret"  # of a node: with it, its own processes show the SuperNode that they are its own
Port = Annotated[int, Field(ge=1, le=65535)]


class _Described(BaseModel):
    """Settings that lie in a YAML file of their folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def _save(self, path: Path) -> None:
        text = yaml.safe_dump(self.model_dump(exclude_none=True, exclude_unset=True), sort_keys=False)
        write_text(path, text)

    @classmethod
    def _load(cls, path: Path) -> Self:
        return validate(cls, load_yaml(path), str(path))


class ServerSettings(_Described):
    """host, port: where hospitals reach the gate. superlink_port: of the SuperLink, on this machine alone.

    limits: what the gate grants whoever comes.
    """

    host: str = "0.0.0.0"
    port: Port
    superlink_port: Port
    limits: Limits = Limits()


class NodeSettings(_Described):
    """site: the hospital. cohort: the file with its images, from the node's folder. server: HOST:PORT.

    sums: which sums over images it gives (``sums.rules.SumRules``); only what differs from the defaults.
    """

    site: str
    cohort: str
    server: str = Field(pattern=r"^\[?[^/\s]+\]?:\d+$")
    device: str | None = None
    sums: SumRules | None = None


class ServerFolder:
    """The server's side: authority, certificate, Flower's configuration, SuperLink's state and log."""

    def __init__(self, path: Path) -> None:
        """Raises FedMergeError where there is none, or its settings are wrong."""
        self.path = path.resolve()
        self.settings = ServerSettings._load(_there(self.path / "server.yaml", "server"))

    @classmethod
    def make(
        cls,
        path: Path,
        names: Sequence[str],
        host: str,
        port: int,
        superlink_port: int,
        authority: Keeping | None = IN_FOLDER,
    ) -> ServerFolder:
        """Make one; FedMergeError where one is. names: under which hospitals reach the server.

        authority: how the key of the server's own is kept; None where another signs the request that is made.
        """
        given = {"host": host, "port": port, "superlink_port": superlink_port}
        settings = validate(ServerSettings, given, "the server's settings")
        _new(path)
        request = make_request(path, [*names, *LOCAL])
        if authority is not None:
            own = make_authority(path, authority)
            install(path, sign_request(request, own, authority))
        make_loopback(path)
        home = path / "flwr"
        home.mkdir()
        text = connection("deployment", f"127.0.0.1:{superlink_port}", path / f"{LOOPBACK}.crt")
        write_text(home / "config.toml", text)
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
    def loopback(self) -> tuple[Path, Path]:
        """The SuperLink's certificate, which vouches for itself, and its key."""
        return self.path / f"{LOOPBACK}.crt", self.path / f"{LOOPBACK}.key"

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

    def admit(self, name: str, public_key: Path, replace: bool = False) -> int:
        """Let the node with this key in, under the hospital's name; returns its node id.

        replace: in the place of the hospital's node that is in, which the gate refuses from then on.
        """
        key = read_public(public_key)
        with self.changing():
            known = self.hospitals()
            same = [node for node, hospital in known.items() if hospital.name == name]
            if bool(same) != replace:
                way = "give --replace for a new key of it, or revoke it" if same else "leave --replace out"
                raise FedMergeError(f"'{name}' is {'' if same else 'not '}admitted: {way}.")
            node = self.flower.register(public_key, name)
            kept = {number: hospital for number, hospital in known.items() if number not in same}
            write_admitted(self.admitted, kept | {node: Admitted(name=name, key=key)})
            audit(self.path, "admitted", hospital=name, node=node, key=key, instead_of=same)
            self._forget()
        return node

    def revoke(self, name: str) -> list[int]:
        """Let a hospital's node in no more, from now on; returns its node ids.

        Raises FedMergeError where there is none of this name, and, after it was revoked, where the SuperLink
        cannot be told: it is told when it starts.
        """
        with self.changing():
            known = self.hospitals()
            gone = [node for node, hospital in known.items() if hospital.name == name]
            if not gone:
                raise unknown("hospital", name, {hospital.name for hospital in known.values()} or {"(none)"})
            kept = {node: hospital for node, hospital in known.items() if node not in gone}
            write_admitted(self.admitted, kept)
            audit(self.path, "revoked", hospital=name, nodes=gone)
            try:
                self._forget()
            except FedMergeError as error:
                raise FedMergeError(
                    f"{name} is revoked: the gate refuses its calls. The SuperLink cannot be told now: it is "
                    f"told when the server starts ({error})"
                ) from None
        return gone

    def forget_the_revoked(self) -> None:
        """Have the SuperLink know no node that is not admitted."""
        with self.changing():
            self._forget()

    def _forget(self) -> None:
        for node in set(self.flower.nodes()) - set(self.hospitals()):
            self.flower.unregister(node)

    def changing(self) -> AbstractContextManager[None]:
        """One process at a time changes who is admitted."""
        return locked(self.path, "somebody else is changing who is admitted: try again in a moment.")

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
        certificate, key = map(str, self.loopback)
        tls = ["--ssl-ca-certfile", certificate, "--ssl-certfile", certificate, "--ssl-keyfile", key]
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
        cls,
        path: Path,
        site: str,
        cohort: Path,
        server: str,
        authority: Path,
        device: str | None = None,
        minimum_images: int | None = None,
    ) -> NodeFolder:
        """Make one with a new key; FedMergeError where one is. ``node.pub`` is for the server."""
        given: dict[str, object] = {"site": site, "cohort": str(cohort.resolve()), "server": server}
        given |= {"device": device}
        given |= {} if minimum_images is None else {"sums": {"minimum_images": minimum_images}}
        settings = validate(NodeSettings, given, "the node's settings")
        for file in (cohort, authority):
            if not file.is_file():
                raise FedMergeError(f"there is no file '{file}': check the path.")
        read_certificates(authority)
        _new(path)
        shutil.copyfile(authority, path / f"{AUTHORITY}.crt")
        make_node_key(path)
        (path / "flwr").mkdir()
        write_policy(path)
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
            "--isolation", "process", "--superexec-auth-secret-file", str(self.path / SECRET),
        ]  # fmt: skip

    def new_secret(self) -> None:
        """Make a new secret for this start of the node, which its owner alone can read."""
        path = self.path / SECRET
        with saying(path):
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))

    def tasks(self, port: int, parent: int) -> list[str]:
        """That answers, with the FedMerge that is installed here, what comes to the SuperNode at ``port``.

        parent: the SuperNode's process, with which it ends.
        """
        module = "fedmerge.federation.deployment.tasks"
        return [sys.executable, "-P", "-m", module, str(self.path), f"127.0.0.1:{port}", str(parent)]


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
