"""Commands that make the folders of the server and of nodes, and admit nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli.app import DeviceOrNone, Json, err, out, print_json, say
from fedmerge.cli.deployment.group import Server, deployment
from fedmerge.cli.deployment.identity import CaKey, PassphraseFile, keeping, remind
from fedmerge.schema.option_groups import flat


@dataclass(frozen=True)
class Listening:
    """Where the server's programs listen."""

    host: Annotated[str, typer.Option(help="The address to listen at.")] = "0.0.0.0"
    port: Annotated[int, typer.Option(help="The port that hospitals reach.")] = 8000
    superlink_port: Annotated[int, typer.Option(help="A port of this machine alone.")] = 8001


@deployment.command()
@flat
def server(
    folder: Server,
    names: Annotated[
        list[str], typer.Option("--name", help="A host name or address of the server; may be repeated.")
    ],
    *,
    listening: Listening,
    ca_key: CaKey = None,
    encrypt: Annotated[bool, typer.Option(help="Give the authority's key a passphrase.")] = False,
    passphrase_file: PassphraseFile = None,
    csr: Annotated[bool, typer.Option(help="No authority of its own: another signs the request.")] = False,
) -> None:
    """Make the server's folder: an authority, a certificate for its names, Flower's configuration."""
    from fedmerge.errors import FedMergeError
    from fedmerge.federation.deployment.server_folder import ServerFolder

    encrypt = encrypt or passphrase_file is not None
    if csr and (ca_key or encrypt):
        raise FedMergeError("with --csr there is no authority's key here: leave --ca-key and --encrypt out.")
    kept = None if csr else keeping(ca_key, passphrase_file, folder / "ca.key", encrypt)
    made = ServerFolder.make(folder, names, listening.host, listening.port, listening.superlink_port, kept)
    if csr:
        say(out, f"have signed:         {made.path / 'server.csr'}")
        say(out, f"then:                fedmerge deployment install-certificate {folder} CERTIFICATE --ca CA")
        return
    if not encrypt:
        say(err, f"note: {ca_key or made.path / 'ca.key'} has no passphrase: take it off this machine (only")
        say(err, "      `renew` needs it), or make the folder with --encrypt")
    say(out, f"give each hospital:  {made.authority}")
    say(out, f"start with:          fedmerge deployment start {folder}")


@deployment.command()
def node(
    folder: Annotated[Path, typer.Argument(help="The node's folder, on the hospital's machine.")],
    site: Annotated[str, typer.Option(help="The hospital's name in the experiment.")],
    cohort: Annotated[Path, typer.Option(help="The YAML file that says where its images are.")],
    server: Annotated[str, typer.Option(help="HOST:PORT of the server.")],
    ca: Annotated[Path, typer.Option(help="The server's ca.crt.")],
    device: DeviceOrNone = None,
    minimum_images: Annotated[
        int | None, typer.Option(min=1, help="The fewest images that sums may be about. Default: 16.")
    ] = None,
) -> None:
    """Make the folder of a hospital's node, with a key of its own."""
    from fedmerge.data import build_cohort, read_cohort
    from fedmerge.data.checks.checks import remarks
    from fedmerge.federation.deployment.node_folder import NodeFolder

    built = build_cohort(read_cohort(cohort), 0)  # reports faults of the cohort now
    images = built.here(site)
    for remark in remarks(built).values():
        say(err, f"note: {remark}")
    made = NodeFolder.make(folder, site, cohort, server, ca, device, minimum_images)
    say(out, f"images:              {len(images.train)} for training, {len(images.val)} for validation")
    say(out, f"what may be asked:   {made.path / 'policy.yaml'}")
    say(out, f"give the server:     {made.public_key}")
    say(out, f"start with:          fedmerge deployment start {folder}")


@deployment.command()
def admit(
    folder: Server,
    name: Annotated[str, typer.Argument(help="The hospital's name.")],
    public_key: Annotated[Path, typer.Argument(help="The node.pub that it gave.")],
    replace: Annotated[bool, typer.Option(help="In the place of its node that is in.")] = False,
) -> None:
    """Admit a hospital's node. The server must be up."""
    from fedmerge.federation.deployment.server_folder import ServerFolder

    number = ServerFolder(folder).admit(name, public_key, replace)
    say(out, f"{name} may come as node {number}")


@deployment.command()
def nodes(folder: Server, as_json: Json = False) -> None:
    """List the admitted nodes, and whether they are connected. The server must be up."""
    from fedmerge.federation.deployment.server_folder import ServerFolder

    found = ServerFolder(folder).nodes()
    remind(folder)
    if as_json:
        print_json([dict(zip(("name", "status", "node"), entry, strict=True)) for entry in found])
        return
    for name, status, number in found:
        say(out, f"{name}: {status} (node {number})")
