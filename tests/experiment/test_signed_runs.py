"""A signature of a run's folder holds until something in it changes."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from facts import refused
from typer.testing import CliRunner

from fedmerge import FedMergeError
from fedmerge.cli import app
from fedmerge.experiment.folder.verify import verify
from fedmerge.storage import files, manifest
from fedmerge.storage.signature import check_signature, line_of, sign
from tests.experiment.finished_runs import better


@pytest.fixture
def keys(tmp_path):
    """A key as ssh-keygen would write it, and another's public key."""
    from cryptography.hazmat.primitives import serialization as s

    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())
    (tmp_path / "server").write_bytes(text)
    (tmp_path / "server.pub").write_text(line_of(key.public_key()) + " server@here\n")
    (tmp_path / "other.pub").write_text(line_of(Ed25519PrivateKey.generate().public_key()) + "\n")
    return tmp_path


def test_a_signature_holds_until_something_changes(finished, keys):
    assert not verify(finished, keys / "server.pub").good  # it is not signed yet
    sign(finished, keys / "server")
    assert verify(finished, keys / "server.pub").good
    assert verify(finished).signature == "not checked"
    assert verify(finished, keys / "other.pub").signature == "other key"
    signed = (finished / "manifest.sig").read_bytes()
    for place in range(0, len(signed), 3):
        (finished / "manifest.sig").write_bytes(
            signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
        )
        assert not verify(finished, keys / "server.pub").good, place
    (finished / "manifest.sig").write_bytes(signed)
    better(finished)
    room = manifest.own_files.enter(finished)  # whoever edits the table also edits the manifest, and seals it
    kept = manifest.read_manifest(finished)
    edited = kept.files | {"results.parquet": files.digest(finished / "results.parquet")}
    kept.model_copy(update={"files": edited}).write(finished)
    assert room.made()
    assert verify(finished).check.good
    assert verify(finished, keys / "server.pub").signature == "bad"


def test_only_what_is_as_it_was_written_is_signed(finished, keys):
    better(finished)
    with refused("not as it was written"):
        sign(finished, keys / "server")
    assert check_signature(finished)[0] == "none"
    for wrong in ("server.pub", "nowhere"):
        with pytest.raises(FedMergeError):
            sign(finished, keys / wrong)
    with refused("public", "Ed25519", "key"):
        verify(finished, keys / "server")


def test_keys_of_openssh_s_own_program_sign(finished, tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh-keygen")
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True)
    told = CliRunner().invoke(app, ["sign", str(finished), "--key", str(tmp_path / "key")])
    assert told.exit_code == 0, told.output
    told = CliRunner().invoke(app, ["verify", str(finished), "--key", str(tmp_path / "key.pub")])
    assert told.exit_code == 0, told.output
