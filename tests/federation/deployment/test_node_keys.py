"""Keys of hospitals: introduced, renewed and revoked; files that others can read."""

from __future__ import annotations

import os
import stat
from datetime import datetime, timedelta

import pytest
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment import identity
from fedmerge.federation.deployment.flower import Flower
from fedmerge.federation.deployment.identity import (
    introduce,
    passphrase_of,
    rotate,
    take_new_key,
    trust,
)
from fedmerge.federation.deployment.keys import make_node_key, read_public
from fedmerge.federation.deployment.modes import mend_modes
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.policy.audit import verify
from tests.federation.deployment.identities import node_of


def test_a_new_key_waits_beside_the_old_until_the_server_knows_it(gate, tmp_path):
    node = node_of(gate.folder, tmp_path, gate.folder.settings.port)
    key = node.path / "node.key"
    hospital = type(gate.known).__new__(type(gate.known))
    hospital.name, hospital.node, hospital.public = "north", 99, node.public_key
    gate.admit(hospital)
    assert introduce(node) == identity.Introduction(True, "north", ())
    old = key.read_bytes()
    new = rotate(node)
    assert rotate(node) == new  # asked again, it is the same
    assert not take_new_key(node)
    assert (key.read_bytes(), introduce(node).known) == (old, True)
    line = read_public(new)
    hospital.public = new
    gate.admit(hospital)
    assert not introduce(node).known
    assert take_new_key(node)
    assert key.read_bytes() != old
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert read_public(node.public_key) == line
    assert introduce(node).known
    assert not list(node.path.glob("*.new.*"))
    assert not take_new_key(node)


def test_a_node_hears_what_is_wrong_before_it_begins(gate, tmp_path, monkeypatch):
    node = node_of(gate.folder, tmp_path, gate.folder.settings.port)
    (remark,) = introduce(node).remarks
    assert "does not know this key" in remark
    hospital = type(gate.known).__new__(type(gate.known))
    hospital.name, hospital.node, hospital.public = "south", 99, node.public_key
    gate.admit(hospital)
    (remark,) = introduce(node).remarks
    assert "'south'" in remark
    assert "'north'" in remark

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=2)

    monkeypatch.setattr(identity, "datetime", Ahead)
    assert any("seconds ahead of the server's" in remark for remark in introduce(node).remarks)
    other = ServerFolder.make(tmp_path / "other", ["127.0.0.1"], "127.0.0.1", 8000, 8001)
    trust(node, other.authority)
    assert "not believed" in introduce(node).remarks[0]


class Registry:
    """SuperLink's nodes, as Flower's command line tells them."""

    def __init__(self, monkeypatch):
        self.known, self.up = {}, True
        monkeypatch.setattr(Flower, "register", lambda flower, key, name: self.register(read_public(key)))
        monkeypatch.setattr(Flower, "unregister", lambda flower, node: self.known.pop(node))
        monkeypatch.setattr(Flower, "nodes", lambda flower: self.nodes())

    def register(self, key):
        self.known[len(self.known) + 100] = key
        return max(self.known)

    def nodes(self):
        if not self.up:
            raise FedMergeError("flwr supernode was refused: nobody answers")
        return dict.fromkeys(self.known, "online")


@pytest.fixture
def registry(monkeypatch):
    return Registry(monkeypatch)


def public_key(tmp_path, name):
    (tmp_path / name).mkdir()
    return make_node_key(tmp_path / name)


def test_a_revoked_hospital_is_out_everywhere_or_the_next_start_sees_to_it(server, registry, tmp_path):
    north, south = (server.admit(name, public_key(tmp_path, name)) for name in ("north", "south"))
    with refused("nort", "north", "hospital"):
        server.revoke("nort")
    assert server.revoke("north") == [north]
    assert set(server.hospitals()) == set(registry.known) == {south}
    registry.up = False
    with refused("revoked", "server", "starts"):
        server.revoke("south")
    assert server.hospitals() == {}
    said = [(entry["event"], entry["hospital"]) for entry in verify(server.path)]
    assert said == [(e, n) for e in ("admitted", "revoked") for n in ("north", "south")]
    assert set(registry.known) == {south}
    registry.up = True
    server.forget_the_revoked()
    assert registry.known == {}


def test_a_new_key_is_let_in_as_the_old_one_is_shut_out(server, registry, tmp_path):
    first = server.admit("north", public_key(tmp_path, "first"))
    with refused("north", "admitted", "--replace"):
        server.admit("north", public_key(tmp_path, "second"))
    with refused("south", "admitted", "--replace"):
        server.admit("south", public_key(tmp_path, "third"), replace=True)
    assert set(server.hospitals()) == set(registry.known) == {first}
    second = server.admit("north", tmp_path / "second" / "node.pub", replace=True)
    assert set(server.hospitals()) == set(registry.known) == {second}


def test_what_others_can_read_is_mended_and_said(server):
    assert mend_modes(server.path) == []
    server.path.chmod(0o755)
    server.certificate[1].chmod(0o640)
    said = mend_modes(server.path)
    assert len(said) == 2
    assert "mode 0755" in said[0]
    assert "mode 0640" in said[1]
    assert "exchange the key" in said[1]
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.certificate[1].stat().st_mode) == 0o600
    assert mend_modes(server.path) == []


def test_a_key_that_is_elsewhere_or_another_s_is_not_touched_but_refused(server, tmp_path):
    elsewhere = tmp_path / "secret"
    elsewhere.write_bytes(b"key")
    elsewhere.chmod(0o644)
    (server.path / "linked.key").symlink_to(elsewhere)
    with refused("mode", "0644", "0600"):
        mend_modes(server.path)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644
    (server.path / "linked.key").unlink()
    if os.geteuid() == 0:
        os.chown(server.certificate[1], 12345, -1)
        with refused("server.key", "another user"):
            mend_modes(server.path)


def test_a_passphrase_is_a_file_s_first_line_or_the_environment_s(tmp_path, monkeypatch):
    monkeypatch.delenv("FEDMERGE_CA_PASSPHRASE", raising=False)
    assert passphrase_of(None) is None
    monkeypatch.setenv("FEDMERGE_CA_PASSPHRASE", "from outside")
    assert passphrase_of(None) == b"from outside"
    file = tmp_path / "phrase"
    file.write_text("open sesame\nmore\n")
    assert passphrase_of(file) == b"open sesame"
    file.write_text("\n")
    with refused("phrase", "passphrase"):
        passphrase_of(file)
    with refused("none", "cannot be read"):
        passphrase_of(tmp_path / "none")
