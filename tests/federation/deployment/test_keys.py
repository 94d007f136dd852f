"""Certificates must be believed by those who hold the authority, for the names they were made for, only."""

import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from facts import refused

from fedmerge.federation.deployment.certificates import install
from fedmerge.federation.deployment.keys import (
    IN_FOLDER,
    Keeping,
    is_encrypted,
    make_authority,
    make_loopback,
    make_node_key,
    make_request,
    sign_request,
)


def verify(authority, certificate, name):
    trusted = Store([x509.load_pem_x509_certificate(authority.read_bytes())])
    policy = PolicyBuilder().store(trusted).build_server_verifier(x509.DNSName(name))
    return policy.verify(x509.load_pem_x509_certificate(certificate.read_bytes()), [])


def issue(folder, names, keeping=IN_FOLDER):
    install(folder, sign_request(make_request(folder, names), folder / "ca.crt", keeping))


def test_a_certificate_is_good_for_its_names_under_its_authority_alone(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_authority(tmp_path / name)
    issue(tmp_path / "one", ["fusion.example.org", "10.0.0.7", "fusion.example.org"])
    certificate = tmp_path / "one" / "server.crt"
    assert len(verify(tmp_path / "one" / "ca.crt", certificate, "fusion.example.org")) == 2
    with pytest.raises(VerificationError):
        verify(tmp_path / "one" / "ca.crt", certificate, "elsewhere.example.org")
    with pytest.raises(VerificationError):
        verify(tmp_path / "two" / "ca.crt", certificate, "fusion.example.org")
    names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name.value) for name in names.value] == ["fusion.example.org", "10.0.0.7"]


def test_a_node_s_two_keys_belong_together_and_are_of_the_kind_flower_wants(tmp_path):
    public = serialization.load_ssh_public_key(make_node_key(tmp_path).read_bytes())
    private = serialization.load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)
    assert private.public_key() == public
    assert public.curve.name == "secp384r1"


def test_private_keys_are_their_owner_s_and_are_never_replaced(tmp_path):
    make_authority(tmp_path)
    issue(tmp_path, ["localhost"])
    make_loopback(tmp_path)
    make_node_key(tmp_path)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("*.key")}
    assert modes == dict.fromkeys(("ca.key", "server.key", "node.key", "loopback.key"), 0o600)
    before = (tmp_path / "node.key").read_bytes()
    with refused("key", "replaced"):
        make_node_key(tmp_path)
    assert (tmp_path / "node.key").read_bytes() == before


def test_what_is_no_name_is_refused(tmp_path):
    make_authority(tmp_path)
    with refused("spital-ä", "host", "address"):
        issue(tmp_path, ["spital-ä"])


def test_an_authority_s_key_is_encrypted_and_kept_elsewhere(tmp_path):
    folder, elsewhere = tmp_path / "server", tmp_path / "stick"
    for each in (folder, elsewhere):
        each.mkdir()
    kept = Keeping(elsewhere / "authority.key", b"open sesame")
    make_authority(folder, kept)
    assert is_encrypted(kept.path)
    assert "sesame" not in repr(kept)
    assert not list(folder.glob("*.key"))
    issue(folder, ["localhost"], kept)
    for wrong, sentence in (
        (Keeping(kept.path), ("authority.key", "encrypted", "passphrase")),
        (Keeping(kept.path, b"open barley"), ("read", "passphrase")),
        (Keeping(), ("ca.key", "--ca-key")),
        (Keeping(folder / "server.key"), ("server.key", "private key", "ca.crt")),
        (Keeping(folder / "server.key", b"x"), ("server.key", "not encrypted")),
    ):
        with refused(*sentence):
            issue(folder, ["localhost"], wrong)
