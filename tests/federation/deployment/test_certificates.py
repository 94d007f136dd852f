"""A server's certificates and authorities: made, renewed, signed by others, at their end."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from facts import refused

from fedmerge.federation.deployment import keys
from fedmerge.federation.deployment.certificates import (
    Certificate,
    check_pair,
    expiries,
    install,
    read_certificates,
    reminders,
    server_context,
)
from fedmerge.federation.deployment.identity import (
    begin_authority,
    finish_authority,
    renew,
    request,
    trust,
)
from fedmerge.federation.deployment.keys import Keeping
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.policy.audit import verify
from tests.federation.deployment.identities import NAME, node_of


def believed(server, authority):
    check_pair(server.certificate, authority, NAME)
    return read_certificates(server.certificate[0])[0].serial_number


def test_a_renewed_certificate_is_believed_by_hospitals_that_changed_nothing(server):
    before, key = believed(server, server.authority), server.certificate[1].read_bytes()
    renew(server)
    assert believed(server, server.authority) != before
    assert [entry["event"] for entry in verify(server.path)] == ["server's certificate"]
    assert server.certificate[1].read_bytes() != key
    with refused("other.org", "believe", "certificate"):
        check_pair(server.certificate, server.authority, "other.org")
    renew(server, names=["other.org"])
    check_pair(server.certificate, server.authority, "other.org")
    assert not list(server.path.glob("*.new.*"))


def test_a_crash_at_any_moment_of_a_renewal_leaves_a_pair_that_works(server, monkeypatch):
    """Every step that changes a file fails once; then the renewal is done again."""

    class Crash(BaseException):
        pass

    steps = []

    def crashing(original, at):
        def step(*args, **more):
            steps.append(original.__name__)
            if len(steps) == at:
                raise Crash
            return original(*args, **more)

        return step

    for at in range(1, 100):
        steps.clear()
        with monkeypatch.context() as patch:
            for name in ("replace", "rename", "unlink"):
                patch.setattr(os, name, crashing(getattr(os, name), at))
            try:
                renew(server)
            except Crash:
                pass
            else:
                break
        server_context(server.certificate)
        renew(server)
        believed(server, server.authority)
    assert at == len(steps) + 1 > 3


def test_a_port_that_is_up_takes_a_new_certificate_and_keeps_the_old_where_that_is_no_pair(gate, capfd):
    def shown():
        with gate.wire() as wire:
            return wire.getpeercert()["serialNumber"]

    before = shown()
    renew(gate.folder)
    after = shown()
    assert after != before
    certificate, _ = gate.folder.certificate
    good = certificate.read_bytes()
    for damaged in (b"nothing", gate.folder.authority.read_bytes()):
        certificate.write_bytes(damaged)
        assert shown() == after
    assert "the certificate in use stays" in capfd.readouterr().err
    certificate.unlink()
    assert shown() == after
    certificate.write_bytes(good)
    assert shown() == after
    with refused("certificate", "key"):
        Certificate((gate.folder.authority, gate.folder.loopback[1]))


def test_another_authority_follows_without_a_moment_in_which_a_hospital_believes_nobody(server, tmp_path):
    node = node_of(server, tmp_path)
    theirs, old = node.path / "ca.crt", server.authority.read_bytes()
    both = begin_authority(server)
    assert len(trust(node, both)) == 2
    believed(server, theirs)  # before
    finish_authority(server)
    believed(server, theirs)  # and after
    trust(node, server.authority)
    believed(server, theirs)
    (tmp_path / "old.crt").write_bytes(old)
    with refused("believe", "certificate"):
        believed(server, tmp_path / "old.crt")
    renew(server)  # the next one's key is the authority's now
    believed(server, theirs)
    with refused("server", "next authority"):
        finish_authority(server)


def test_the_server_needs_no_authority_s_key_once_it_is_made(tmp_path):
    kept = Keeping(tmp_path / "stick.key", b"open sesame")
    server = ServerFolder.make(tmp_path / "server", [NAME], "127.0.0.1", 8000, 8001, kept)
    assert sorted(file.name for file in server.path.glob("*.key")) == ["loopback.key", "server.key"]
    server_context(server.certificate)
    with refused("ca.key", "--ca-key"):
        renew(server)
    believed(server, server.authority)  # nothing was changed
    renew(server, kept)
    believed(server, server.authority)


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def openssl(*arguments, cwd):
    done = subprocess.run(["openssl", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def trusts_own(tmp_path):
    """A hospital trust's authority, made and used with openssl."""
    folder = tmp_path / "trust"
    folder.mkdir()
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key",
        "-out", "ca.crt", "-subj", "/CN=Trust", "-days", "900", cwd=folder,
    )  # fmt: skip

    def sign(csr, days=100):
        openssl(
            "x509", "-req", "-in", csr, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", days,
            "-copy_extensions", "copy", "-out", "signed.crt", cwd=folder,
        )  # fmt: skip
        return folder / "signed.crt"

    return folder / "ca.crt", sign


@needs_openssl
def test_a_trust_s_own_authority_signs_and_no_private_key_travels(tmp_path, trusts_own):
    authority, sign = trusts_own
    server = ServerFolder.make(tmp_path / "server", [NAME], "127.0.0.1", 8000, 8001, None)
    assert not server.authority.exists()
    assert b"PRIVATE" not in (server.path / "server.csr").read_bytes()
    signed = sign(server.path / "server.csr")
    install(server.path, signed.read_bytes(), authority)
    openssl(
        "verify", "-CAfile", server.authority, "-verify_hostname", NAME, server.certificate[0], cwd=tmp_path
    )
    before = believed(server, authority)
    request(server)
    assert believed(server, authority) == before  # until the new one is there
    install(server.path, sign(server.path / "server.csr").read_bytes())
    assert believed(server, authority) != before
    with refused("request", "open"):
        install(server.path, signed.read_bytes())


@needs_openssl
def test_ours_are_good_for_openssl_too(server, tmp_path):
    openssl(
        "verify", "-x509_strict", "-CAfile", server.authority, "-verify_hostname", NAME,
        "-purpose", "sslserver", server.certificate[0], cwd=tmp_path,
    )  # fmt: skip


@needs_openssl
def test_a_certificate_that_hospitals_would_not_believe_is_not_installed(server, tmp_path, trusts_own):
    authority, sign = trusts_own
    before = {path.name: path.read_bytes() for path in server.path.glob("*.crt")}
    request(server)
    signed = sign(server.path / "server.csr").read_bytes()
    other = ServerFolder.make(tmp_path / "other", [NAME], "127.0.0.1", 8000, 8001)
    for certificate, ca, sentence in (
        (signed, None, ("believe", "certificate")),
        (other.certificate[0].read_bytes(), None, ("key", "request")),
        (b"nothing", None, ("key", "request")),
        (signed, server.certificate[1], ("authority's", "certificate")),
        (sign(server.path / "server.csr", days=-1).read_bytes(), authority, ("certificate", "expired")),
    ):
        with refused(*sentence):
            install(server.path, certificate, ca)
        assert {path.name: path.read_bytes() for path in server.path.glob("*.crt")} == before
    request(server, ["other.org"])
    with refused("key", "request"):
        install(server.path, signed, authority)  # it was for the request before
    server_context(server.certificate)


def test_an_end_is_said_sixty_days_before(server, tmp_path, monkeypatch):
    ends = {each.what: each.until for each in expiries(server.path)}
    assert set(ends) == {"server.crt", "ca.crt", "loopback.crt"}
    assert expiries(server.path)[0].what == "server.crt"
    until, day = ends["server.crt"], timedelta(days=1)
    assert abs(until - datetime.now(UTC) - 825 * day) < day
    assert reminders(server.path, until - 61 * day) == []
    (sentence,) = reminders(server.path, until - 59 * day)
    assert "ends in 59 days" in sentence
    assert "renew" in sentence
    assert "has ended" in reminders(server.path, until + day)[0]
    assert len(reminders(server.path, until + 3650 * day)) == 3
    early = reminders(server.path, datetime.now(UTC) - day)  # a clock that was set back
    assert len(early) == 3
    assert all("set the clock" in sentence for sentence in early)
    node = node_of(server, tmp_path)
    assert [each.what for each in expiries(node.path)] == ["ca.crt"]
    both = begin_authority(server)
    trust(node, both)
    last = max(each.not_valid_after_utc for each in read_certificates(both))
    assert [each.until for each in expiries(node.path)] == [last]


def test_no_certificate_outlives_its_authority(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "AUTHORITY_DAYS", 100)
    server = ServerFolder.make(tmp_path / "server", [NAME], "127.0.0.1", 8000, 8001)
    ends = {each.what: each.until for each in expiries(server.path)}
    assert ends["server.crt"] <= ends["ca.crt"]
