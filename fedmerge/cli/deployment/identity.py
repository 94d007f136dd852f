"""Commands that revoke, rotate, renew and request keys and certificates, and change the authority."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli.app import err, out, say
from fedmerge.cli.deployment.group import Node, Server, deployment

if TYPE_CHECKING:
    from fedmerge.federation.deployment.keys import Keeping

CaKey = Annotated[
    Path | None, typer.Option("--ca-key", help="Where the authority's key is kept. Default: the folder.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="A file with the passphrase of the authority's key. Or set FEDMERGE_CA_PASSPHRASE."),
]
Names = Annotated[
    list[str] | None, typer.Option("--name", help="Another name of the server; default: those it has.")
]


def keeping(path: Path | None, file: Path | None, key: Path, encrypt: bool = False) -> Keeping:
    """Return where the authority's key is and its passphrase; ask for one that is needed and not given.

    key: the key's file, unless ``path`` names another. encrypt: whether a new key gets a passphrase.
    """
    from fedmerge.federation.deployment.identity import passphrase_of
    from fedmerge.federation.deployment.keys import Keeping, is_encrypted

    phrase = passphrase_of(file) if encrypt or file or is_encrypted(path or key) else None
    if phrase is None and (encrypt or is_encrypted(path or key)):
        asked = typer.prompt(
            "passphrase of the authority's key", hide_input=True, confirmation_prompt=encrypt, err=True
        )
        phrase = str(asked).encode()
    return Keeping(path, phrase)


@deployment.command()
def revoke(folder: Server, name: Annotated[str, typer.Argument(help="The hospital's name.")]) -> None:
    """Shut a hospital's node out from this moment on, also in the middle of a run."""
    from fedmerge.federation.deployment.server_folder import ServerFolder

    gone = ServerFolder(folder).revoke(name)
    say(out, f"{name} is revoked (node {', '.join(map(str, gone))}); with a new key it can be admitted again")


@deployment.command()
def rotate(folder: Node) -> None:
    """Make a new key for a hospital's node; the old one is used until the server admits the new one."""
    from fedmerge.federation.deployment.identity import rotate, take_new_key
    from fedmerge.federation.deployment.node_folder import NodeFolder

    node = NodeFolder(folder)
    if take_new_key(node):
        say(out, "the server has admitted the new key: it is used from the next start on")
        return
    public = rotate(node)
    say(out, f"give the server:     {public}")
    say(
        out,
        f"who admits it with:  fedmerge deployment admit SERVER {node.settings.site} {public.name} --replace",
    )
    say(out, "the node that is up then takes it")


@deployment.command()
def renew(
    folder: Server,
    names: Names = None,
    ca_key: CaKey = None,
    passphrase_file: PassphraseFile = None,
    loopback: Annotated[bool, typer.Option(help="The SuperLink's, on this machine alone.")] = False,
) -> None:
    """Make a new certificate for the server; hospitals change nothing, and a server that is up goes on."""
    from fedmerge.federation.deployment.identity import renew
    from fedmerge.federation.deployment.keys import make_loopback
    from fedmerge.federation.deployment.server_folder import ServerFolder

    server = ServerFolder(folder)
    if loopback:
        make_loopback(server.path)
        say(out, "the SuperLink has a new certificate: start the server anew")
        return
    renew(server, keeping(ca_key, passphrase_file, server.path / "ca.key"), names or ())
    _say_until(server.path)


@deployment.command()
def request(folder: Server, names: Names = None) -> None:
    """Make a new key for the server, and a certificate request that another authority signs."""
    from fedmerge.federation.deployment.identity import request
    from fedmerge.federation.deployment.server_folder import ServerFolder

    say(out, f"have signed:         {request(ServerFolder(folder), names or ())}")
    say(out, f"then:                fedmerge deployment install-certificate {folder} CERTIFICATE")


@deployment.command("install-certificate")
def install_certificate(
    folder: Server,
    certificate: Annotated[Path, typer.Argument(help="It, and those between it and the CA.")],
    ca: Annotated[Path | None, typer.Option(help="The authority, if hospitals have another.")] = None,
) -> None:
    """Use the certificate that an authority made for the server's request, if hospitals will trust it."""
    from fedmerge.errors import FedMergeError
    from fedmerge.federation.deployment.identity import install_certificate
    from fedmerge.federation.deployment.server_folder import ServerFolder

    server = ServerFolder(folder)
    if not certificate.is_file():
        raise FedMergeError(f"there is no file '{certificate}': check the path.")
    install_certificate(server, certificate.read_bytes(), ca)
    if ca is not None:
        say(out, f"give each hospital:  {server.authority}")
    _say_until(server.path)


@deployment.command("new-authority")
def new_authority(
    folder: Server,
    finish: Annotated[bool, typer.Option(help="It takes the old one's place.")] = False,
    ca_key: CaKey = None,
    passphrase_file: PassphraseFile = None,
    encrypt: Annotated[bool, typer.Option(help="Give its key a passphrase.")] = False,
) -> None:
    """Make the next authority; or, with --finish, have it sign the server's certificate."""
    from fedmerge.federation.deployment.identity import begin_authority, finish_authority
    from fedmerge.federation.deployment.server_folder import ServerFolder

    server = ServerFolder(folder)
    kept = keeping(ca_key, passphrase_file, server.path / "ca.next.key", encrypt and not finish)
    if finish:
        finish_authority(server, kept)
        _say_until(server.path)
        return
    say(out, f"give each hospital:  {begin_authority(server, kept)}")
    say(out, "who has it trusted:  fedmerge deployment trust NODE FILE")
    say(out, f"when all have:       fedmerge deployment new-authority {folder} --finish")


@deployment.command()
def trust(folder: Node, ca: Annotated[Path, typer.Argument(help="The file that the server gave.")]) -> None:
    """Make a hospital's node trust the authorities in a file, and no others, from its next start on."""
    from fedmerge.federation.deployment.identity import trust
    from fedmerge.federation.deployment.node_folder import NodeFolder

    say(out, "the server's people should read you the same (SHA-256):")
    for fingerprint in trust(NodeFolder(folder), ca):
        say(out, fingerprint.upper())
    say(out, "start the node anew")


def remind(folder: Path) -> None:
    """Say which certificates of a folder end soon."""
    from fedmerge.federation.deployment.certificates import reminders

    for sentence in reminders(folder):
        say(err, f"note: {sentence}")


def _say_until(folder: Path) -> None:
    from fedmerge.federation.deployment.certificates import expiries

    (until,) = [each.until for each in expiries(folder) if each.what == "server.crt"]
    say(out, f"the server's certificate holds until {until:%Y-%m-%d}; a server that is up has taken it")
