"""The server's folder: authority, certificates, admitted hospitals, and Flower's files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedmerge.errors import FedMergeError, unknown
from fedmerge.federation.admission import Admitted, read_admitted, write_admitted
from fedmerge.federation.deployment.certificates import install
from fedmerge.federation.deployment.described import Described, new_folder, settings_file
from fedmerge.federation.deployment.flower import Flower, connection
from fedmerge.federation.deployment.keys import (
    AUTHORITY,
    IN_FOLDER,
    LOCAL,
    LOOPBACK,
    SERVER,
    Keeping,
    make_authority,
    make_loopback,
    make_request,
    read_public,
    sign_request,
)
from fedmerge.federation.deployment.limits import Limits
from fedmerge.federation.deployment.processes import environment
from fedmerge.federation.policy.audit import audit
from fedmerge.schema.validation import validate
from fedmerge.storage.files import locked, write_text

Port = Annotated[int, Field(ge=1, le=65535)]


class ServerSettings(Described):
    """The settings of a server.

    host, port: where hospitals reach the gate. superlink_port: of the SuperLink, only on this machine.
    limits: of the gate.
    """

    host: str = "0.0.0.0"
    port: Port
    superlink_port: Port
    limits: Limits = Limits()


class ServerFolder:
    """The folder of a server: authority, certificate, Flower's configuration, SuperLink's state and log."""

    def __init__(self, path: Path) -> None:
        """Raises FedMergeError if the folder is missing or its settings are wrong."""
        self.path = path.resolve()
        self.settings = ServerSettings.load(settings_file(self.path / "server.yaml", "server"))

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
        """Make a folder. Raises FedMergeError if it exists. names: under which hospitals reach the server.

        authority: how the key of the server's own authority is kept; None: another authority signs the
        server's request.
        """
        given = {"host": host, "port": port, "superlink_port": superlink_port}
        settings = validate(ServerSettings, given, "the server's settings")
        new_folder(path)
        request = make_request(path, [*names, *LOCAL])
        if authority is not None:
            own = make_authority(path, authority)
            install(path, sign_request(request, own, authority))
        make_loopback(path)
        home = path / "flwr"
        home.mkdir()
        text = connection("deployment", f"127.0.0.1:{superlink_port}", path / f"{LOOPBACK}.crt")
        write_text(home / "config.toml", text)
        settings.save(path / "server.yaml")
        return cls(path)

    @property
    def authority(self) -> Path:
        """The authority's certificate, which every hospital gets."""
        return self.path / f"{AUTHORITY}.crt"

    @property
    def certificate(self) -> tuple[Path, Path]:
        """The server's certificate and its key."""
        return self.path / f"{SERVER}.crt", self.path / f"{SERVER}.key"

    @property
    def loopback(self) -> tuple[Path, Path]:
        """The SuperLink's self-signed certificate and its key."""
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
        """Admit the node with this key under the hospital's name; return its node id.

        replace: in place of the hospital's admitted node, which the gate refuses from then on.
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
        """Revoke a hospital's admission from now on; return its node ids.

        Raises FedMergeError for an unknown name, and, after the revocation, if the SuperLink cannot be
        reached: it learns of it when the server starts.
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
        """Unregister every node at the SuperLink that is not admitted."""
        with self.changing():
            self._forget()

    def _forget(self) -> None:
        for node in set(self.flower.nodes()) - set(self.hospitals()):
            self.flower.unregister(node)

    def changing(self) -> AbstractContextManager[None]:
        """Lock the admissions, so that only one process changes them. Raises FedMergeError."""
        return locked(self.path, "somebody else is changing who is admitted: try again in a moment.")

    def nodes(self) -> list[tuple[str, str, int]]:
        """Return name, status (``registered``, ``online``, ``offline``) and id of every registered node."""
        known = {node: hospital.name for node, hospital in self.hospitals().items()}
        return [(known.get(node, "?"), status, node) for node, status in self.flower.nodes().items()]

    @property
    def admitted(self) -> Path:
        """The admission file."""
        return self.path / "admitted.yaml"

    def hospitals(self) -> dict[int, Admitted]:
        """Return the admitted hospitals by node id."""
        return (read_admitted(self.admitted) or {}) if self.admitted.is_file() else {}

    def command(self) -> list[str]:
        """Return the command that starts the SuperLink."""
        certificate, key = map(str, self.loopback)
        tls = ["--ssl-ca-certfile", certificate, "--ssl-certfile", certificate, "--ssl-keyfile", key]
        where = ["--host", "127.0.0.1", "--port", str(self.settings.superlink_port)]
        state = ["--database", str(self.path / "superlink.db")]
        return [
            "flower-superlink", *where, *tls, *state,
            "--enable-supernode-auth", "--disable-runtime-dependency-installation",
        ]  # fmt: skip
