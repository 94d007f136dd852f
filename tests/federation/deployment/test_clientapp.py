"""A hospital's process goes on to the next message where the SuperNode has given up the one it waits for."""

from types import SimpleNamespace

import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.supercore.runtime import RuntimeHttpClient

from fedmerge.federation.deployment import clientapp


@pytest.fixture
def client(monkeypatch):
    """Pieces are as ``client.piece`` says; a look for another task is due at once."""
    made = clientapp.Pulling("http://127.0.0.1:1", interceptors=[])
    made.piece = PullObjectResponse(object_found=True, object_available=False)
    monkeypatch.setattr(RuntimeHttpClient, "PullObject", lambda self, request: self.piece)
    monkeypatch.setattr(clientapp, "LOOK", -1.0)
    yield made
    made.close()


def test_a_piece_that_is_not_there_is_waited_for_while_there_is_no_other_task(client):
    client.another = lambda: None
    assert client.PullObject(PullObjectRequest()) == client.piece


def test_another_task_ends_the_wait(client):
    client.another = lambda: ("token", clientapp.APP)
    with pytest.raises(clientapp.Abandoned) as left:
        client.PullObject(PullObjectRequest())
    assert (left.value.token, left.value.kind) == ("token", clientapp.APP)


@pytest.mark.parametrize("found", [True, False])
def test_nobody_looks_where_the_piece_came_or_is_gone(client, found):
    client.piece = PullObjectResponse(object_found=found, object_available=found)
    client.another = lambda: pytest.fail("it looked")
    assert client.PullObject(PullObjectRequest()) == client.piece


def test_looks_are_seconds_apart(client, monkeypatch):
    monkeypatch.setattr(clientapp, "LOOK", 1000.0)
    client._looked = clientapp.time.monotonic()
    client.another = lambda: pytest.fail("it looked")
    client.PullObject(PullObjectRequest())


def test_the_other_task_is_answered_by_the_same_process(monkeypatch, tmp_path):
    """The first two are given up one after the other; the third is answered, and the process ends."""
    (tmp_path / clientapp.SECRET).write_bytes(b"s" * 32)
    monkeypatch.setattr(clientapp, "start_parent_process_monitor", lambda parent: None)
    monkeypatch.setattr(clientapp, "own_app", lambda: None)
    monkeypatch.setattr(clientapp, "POLL", 0.0)
    waiting = [None, ("a", "kind"), ("b", "kind"), ("c", "kind")]
    monkeypatch.setattr(clientapp, "_client", lambda *_: SimpleNamespace())
    monkeypatch.setattr(clientapp, "_acquire", lambda client: waiting.pop(0))
    tried = []

    def answer(app, folder, address, token, kind, another):
        tried.append(token)
        if waiting:
            raise clientapp.Abandoned(*another())

    monkeypatch.setattr(clientapp, "_answer_task", answer)
    clientapp.main(tmp_path, "127.0.0.1:1", 1)
    assert tried == ["a", "b", "c"]
