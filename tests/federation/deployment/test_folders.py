"""A folder says everything that its program is started with, and a wrong one says what to do."""

import pytest
import yaml
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.node_folder import NodeFolder
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.hospital.sums.rules import SumRules, rules_of


@pytest.fixture
def server(tmp_path):
    return ServerFolder.make(tmp_path / "server", ["fusion.example.org"], "0.0.0.0", 8000, 8001)


@pytest.fixture
def node(server, tmp_path):
    (tmp_path / "own.yaml").write_text("sites: []")
    return NodeFolder.make(
        tmp_path / "node", "alpha", tmp_path / "own.yaml", "fusion.example.org:8000", server.authority, "cpu"
    )


def value(command, option):
    return command[command.index(option) + 1]


def test_the_superlink_is_on_this_machine_alone_with_tls_and_keys_asked_for(server):
    command = server.command()
    assert (value(command, "--host"), value(command, "--port")) == ("127.0.0.1", "8001")
    assert "--enable-supernode-auth" in command
    assert "--disable-runtime-dependency-installation" in command
    assert "--insecure" not in command
    assert value(command, "--ssl-certfile") == str(server.path / "loopback.crt")
    text = (server.path / "flwr" / "config.toml").read_text()
    assert 'address = "127.0.0.1:8001"' in text
    assert f'root-certificates = "{server.path / "loopback.crt"}"' in text


def test_a_node_knows_its_own_site_key_and_authority_alone(server, node):
    command = node.command(9123)
    said = value(command, "--node-config")
    assert said == f'site="alpha" cohort="{node.path.parent / "own.yaml"}" device="cpu" folder="{node.path}"'
    assert value(command, "--superlink") == "fusion.example.org:8000"
    assert (value(command, "--host"), value(command, "--port")) == ("127.0.0.1", "9123")
    assert value(command, "--auth-supernode-private-key") == str(node.path / "node.key")
    assert (node.path / "ca.crt").read_bytes() == server.authority.read_bytes()
    assert not [file for file in node.path.rglob("*") if file.name in ("ca.key", "server.key")]
    assert node.env["FLWR_HOME"] == str(node.path / "flwr")


def test_a_folder_is_opened_again_as_it_was_made(server, node):
    assert ServerFolder(server.path).settings == server.settings
    assert NodeFolder(node.path).command(1) == node.command(1)


def test_a_folder_that_is_there_is_not_made_again(server, tmp_path):
    with refused("server", "not empty"):
        ServerFolder.make(server.path, ["localhost"], "0.0.0.0", 8000, 8001)


@pytest.mark.parametrize(
    ("kind", "file", "sentence"),
    [
        (ServerFolder, None, ("server's folder", "fedmerge deployment server")),
        (NodeFolder, None, ("node's folder", "fedmerge deployment node")),
        (ServerFolder, {"port": 0, "superlink_port": 8001}, ("port", "server.yaml", "field", "0")),
        (NodeFolder, {"site": "a", "cohort": "b", "server": "http://x"}, ("server", "node.yaml", "field")),
        (NodeFolder, {"site": "a", "cohort": "b", "server": "x:1", "sit": "c"}, ("sit", "unknown", "field")),
    ],
)
def test_a_wrong_folder_is_a_sentence(tmp_path, kind, file, sentence):
    if file is not None:
        name = "server.yaml" if kind is ServerFolder else "node.yaml"
        (tmp_path / name).write_text(yaml.safe_dump(file))
    with refused(*sentence):
        kind(tmp_path)


def test_a_node_needs_files_that_are_there(server, tmp_path):
    with refused("file", "nowhere.yaml"):
        NodeFolder.make(tmp_path / "n", "a", tmp_path / "nowhere.yaml", "localhost:1", server.authority)


def test_the_minimum_of_a_node_is_in_its_file_and_reaches_its_hospital(server, tmp_path):
    cohort = tmp_path / "own.yaml"
    cohort.write_text("sites: []")
    NodeFolder.make(tmp_path / "n", "a", cohort, "localhost:1", server.authority, minimum_images=40)
    assert yaml.safe_load((tmp_path / "n" / "node.yaml").read_text())["sums"] == {"minimum_images": 40}
    assert rules_of(tmp_path / "n") == NodeFolder(tmp_path / "n").settings.sums == SumRules(minimum_images=40)
    with pytest.raises(FedMergeError, match="minimum_images"):
        NodeFolder.make(tmp_path / "m", "a", cohort, "localhost:1", server.authority, minimum_images=0)
