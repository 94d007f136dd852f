"""Code that comes with a run is not run: real bundles, as Flower builds them, and as somebody else might."""

import io
import sys
import zipfile

import pytest
from facts import refused
from flwr.app import Context, RecordDict
from flwr.cli.build import build_fab_from_disk

from fedmerge.errors import FedMergeError
from fedmerge.federation import Hospital, LocalGrid, client_app
from fedmerge.federation.deployment import bundle, clientapp
from fedmerge.federation.deployment.bundle import check_bundle
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.policy.audit import audit_log
from fedmerge.workflows.deployed import project


def packed(files):
    """A bundle with these files, as a zip file of one's own making."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def app(tmp_path):
    return project(tmp_path / "app")


@pytest.fixture
def settings(app):
    return (app / "pyproject.toml").read_text()


def test_ours_is_taken(app):
    check_bundle(build_fab_from_disk(app))


@pytest.mark.parametrize(
    "name",
    [
        "evil.py",
        "fedmerge/__init__.py",
        "sitecustomize.py",
        "fedmerge.pth",
        "conf.yaml",
        "../x",
        ".info/x.so",
    ],
)
def test_another_file_is_refused_by_its_name(settings, name):
    with refused("app", "holds the file"):
        check_bundle(packed({"pyproject.toml": settings, name: "x"}))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("fedmerge.workflows.flower_app:client", "os:system"),
        ("fedmerge.workflows.flower_app:server", "evil:server"),
        ('clientapp = "fedmerge.workflows.flower_app:client"', ""),
        ("[tool.flwr.app.components]", "[tool.flwr.app.components]\nagentapp = 'evil:agent'"),
        ("[tool.flwr.app.components]", "[tool.flwr.app.component]"),
    ],
)
def test_other_apps_are_refused(settings, before, after):
    assert before in settings
    with refused("apps", "this package's"):
        check_bundle(packed({"pyproject.toml": settings.replace(before, after)}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zip",
        b"PK\x03\x04",
        packed({}),
        packed({"pyproject.toml": b"\xff"}),
        packed({"pyproject.toml": "["}),
    ],
)
def test_what_cannot_be_read_is_refused(content):
    with refused("app", "cannot be read"):
        check_bundle(content)


def test_a_bundle_that_grows_when_it_is_unpacked_is_refused_before_it_is(settings):
    bomb = packed({"pyproject.toml": settings + "#" * 10**7})
    assert len(bomb) < bundle.LARGEST
    with pytest.raises(FedMergeError, match="10,0"):
        check_bundle(bomb)
    with refused("app", "bytes"):
        check_bundle(bytes(bundle.LARGEST + 1))


@pytest.fixture
def node(tmp_path):
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "node.yaml").write_text("")
    return folder


@pytest.fixture
def greeting(cohort):
    LocalGrid(client_app(lambda context: Hospital(cohort["alpha"])), 1)
    message = request_message("query", 1001, "greeting", {}, None)
    message.metadata.__dict__["_message_id"] = "m1"
    return message


def test_a_malicious_bundle_writes_no_file_and_the_server_and_the_log_hear_why(
    app, node, greeting, cohort, tmp_path, monkeypatch
):
    """The app as Flower builds it, whose client module writes a file when it is imported."""
    proof = tmp_path / "proof"
    code = f"open({str(proof)!r}, 'w').write('run')\nfrom flwr.clientapp import ClientApp\n"
    code += "client = ClientApp()\n"
    (app / "evil.py").write_text(code)
    text = (app / "pyproject.toml").read_text()
    (app / "pyproject.toml").write_text(text.replace(bundle.CLIENT, "evil:client"))
    content = build_fab_from_disk(app)
    assert b"evil.py" in content
    context = Context(run_id=5, node_id=1, node_config={}, state=RecordDict(), run_config={})
    own = client_app(lambda context: Hospital(cohort["alpha"]))
    said = clientapp.reply_of(own, greeting, context, content, clientapp.APP, node)
    assert "evil.py" in said.error.reason
    assert "no code that a server sends" in said.error.reason
    (entry,) = audit_log(node).entries()
    assert (entry["event"], entry["run"], entry["reason"]) == ("refused", 5, said.error.reason)
    assert not proof.exists()
    assert "evil" not in sys.modules
    exec(code, {})  # it would have: the proof is one
    assert proof.read_text() == "run"


def test_tasks_of_another_kind_are_refused_before_the_bundle_is_looked_at(app, node, greeting):
    context = Context(run_id=5, node_id=1, node_config={}, state=RecordDict(), run_config={})
    said = clientapp.reply_of(None, greeting, context, build_fab_from_disk(app), "flwr-agentapp", node)
    assert "flwr-agentapp" in said.error.reason


def test_our_own_bundle_is_answered_by_the_installed_app(app, node, greeting, cohort):
    context = Context(run_id=5, node_id=1, node_config={}, state=RecordDict(), run_config={})
    own = client_app(lambda context: Hospital(cohort["alpha"]))
    said = clientapp.reply_of(own, greeting, context, build_fab_from_disk(app), clientapp.APP, node)
    assert not said.has_error()
    assert clientapp.own_app() is __import__("fedmerge.workflows.flower_app", fromlist=["client"]).client


def test_the_text_of_an_exception_stays_at_the_hospital(app, node, greeting):
    def raises(message, context):
        raise OSError("'/data/chest/Mustermann_Hans.png' is gone")

    context = Context(run_id=5, node_id=1, node_config={}, state=RecordDict(), run_config={})
    said = clientapp.reply_of(raises, greeting, context, build_fab_from_disk(app), clientapp.APP, node)
    assert "OSError" in said.error.reason
    assert "Mustermann" not in said.error.reason


def test_a_node_starts_none_of_flower_s_programs_and_its_secret_is_its_owner_s_alone(node, tmp_path):
    from fedmerge.federation.deployment.node_folder import NodeFolder

    server = ServerFolder.make(tmp_path / "server", ["localhost"], "127.0.0.1", 8000, 8001)
    (tmp_path / "own.yaml").write_text("sites: []")
    made = NodeFolder.make(tmp_path / "n", "alpha", tmp_path / "own.yaml", "localhost:8000", server.authority)
    command = made.command(9000)
    assert command[command.index("--isolation") + 1] == "process"
    made.new_secret()
    first = (made.path / "tasks.secret").read_bytes()
    made.new_secret()
    assert (made.path / "tasks.secret").read_bytes() != first
    assert (made.path / "tasks.secret").stat().st_mode & 0o077 == 0
    assert made.tasks(9000, 1)[1] == "-P"  # nothing is imported from where it is started
