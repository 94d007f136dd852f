"""The peers of a hospital under masks: public keys of other hospitals that its people pinned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmerge.cli.app import Json, out, print_json, say
from fedmerge.cli.deployment.group import Node, deployment


@deployment.command()
def peers(
    node: Node,
    add: Annotated[
        tuple[str, Path],
        typer.Option("--add", metavar="NAME FILE", help="Pin a hospital's node.pub, as it gave it to you."),
    ] = ("", Path()),
    accept: Annotated[
        bool, typer.Option("--accept", help="Pin the keys that wait, after you compared them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the hospitals that this one sums with under masks, and the keys that wait to be pinned.

    Compare a key with what `fedmerge deployment peers` says at its own hospital, by a channel that the
    server cannot change: by phone, for example.
    """
    from fedmerge.federation.deployment.keys import read_public
    from fedmerge.federation.deployment.node_folder import NodeFolder
    from fedmerge.federation.hospital.secure.peers import Peers
    from fedmerge.federation.hospital.secure.rules import SecureRules
    from fedmerge.federation.privacy.identity import Identity, fingerprint

    folder = NodeFolder(node)
    known = Peers(folder.path, SecureRules.of(folder.path))
    name, file = add
    if name:
        known.pin({name: read_public(file)})
    if accept:
        known.pin(known.asked())
    own, site = Identity.of(folder.path).public, folder.settings.site
    rows = [{"name": site, "key": own, "state": "this hospital"}]
    for state, keys in (("pinned", known.pinned()), ("waits", known.asked())):
        rows += [{"name": each, "key": key, "state": state} for each, key in keys.items() if each != site]
    rows = [row | {"fingerprint": fingerprint(row["key"])} for row in rows]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        say(out, f"{row['state']:<14} {row['name']}  {row['fingerprint']}")
