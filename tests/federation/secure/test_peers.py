"""``fedmerge deployment peers``: what is pinned, what waits, and what is no key."""

import json

import pytest
import yaml
from facts import refused
from typer.testing import CliRunner

from fedmerge.cli.app import app
from fedmerge.federation.deployment.keys import make_node_key, read_public
from fedmerge.federation.hospital.secure.peers import Peers
from fedmerge.federation.hospital.secure.rules import SecureRules
from fedmerge.federation.privacy.identity import fingerprint


@pytest.fixture
def node(tmp_path):
    """The folder of a node, and the keys of two other hospitals."""
    folder = tmp_path / "node"
    for place in (folder, tmp_path / "b", tmp_path / "c"):
        place.mkdir()
        make_node_key(place)
    settings = {"site": "a", "cohort": "a.yaml", "server": "127.0.0.1:8000"}
    (folder / "node.yaml").write_text(yaml.safe_dump(settings))
    return folder


def asked(node, *more):
    import fedmerge.cli.deployment  # noqa: F401  (its commands)

    done = CliRunner().invoke(app, ["deployment", "peers", str(node), *map(str, more), "--json"])
    assert done.exit_code == 0, done.output
    return {row["name"]: (row["state"], row["fingerprint"]) for row in json.loads(done.output)}


def test_peers_are_listed_added_and_accepted(node, tmp_path):
    keys = {name: read_public(tmp_path / name / "node.pub") for name in "bc"}
    own = fingerprint(read_public(node / "node.pub"))
    assert asked(node) == {"a": ("this hospital", own)}
    assert asked(node, "--add", "b", tmp_path / "b" / "node.pub")["b"] == ("pinned", fingerprint(keys["b"]))
    with refused("c", "pinned", kind=Exception):
        Peers(node, SecureRules()).check(keys, "a")
    assert asked(node)["c"] == ("waits", fingerprint(keys["c"]))
    assert asked(node, "--accept")["c"] == ("pinned", fingerprint(keys["c"]))
    Peers(node, SecureRules()).check(keys, "a")


def test_what_is_no_key_is_not_pinned(node, tmp_path):
    import fedmerge.cli.deployment  # noqa: F401

    (tmp_path / "x.pub").write_text("ssh-ed25519 AAAA")
    done = CliRunner().invoke(app, ["deployment", "peers", str(node), "--add", "b", str(tmp_path / "x.pub")])
    assert "is not the public key of a node" in str(done.exception)
    assert Peers(node, SecureRules()).pinned() == {}


def test_a_damaged_file_of_peers_is_a_sentence(node):
    (node / "peers.yaml").write_text("peers: [a]\n")
    with pytest.raises(Exception, match=r"peers\.yaml"):
        Peers(node, SecureRules()).check({}, "a")
