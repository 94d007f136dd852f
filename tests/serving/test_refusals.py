"""What is not an image, too much, too slow, or from somebody unknown is refused, and changes nothing."""

from __future__ import annotations

import asyncio
import io
import struct
import threading
import warnings
import zipfile

import pytest
from PIL import Image

from benchmarks.simulations.hostile_bodies import KINDS, hostile
from fedmerge.serving.bodies import read_body
from fedmerge.serving.limits import Limits
from fedmerge.serving.refusal import Refusal
from fedmerge.serving.serve import Address
from fedmerge.serving.streams import Streams
from fedmerge.serving.tokens import Tokens, add_token
from tests.facts import refused
from tests.serving.conftest import drawn, npz

GOOD = npz(drawn(3, seed=1))


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_malformed_bodies_are_refused_and_change_nothing(start, tmp_path):
    """Every kind once but the bomb that takes a second to pack; between them a stream goes on as it would."""
    token = add_token(tmp_path / "tokens", "ward")
    client, quiet = start(tokens=Tokens(tmp_path / "tokens")), start()
    client.headers.update(bearer(token))
    for number, call in enumerate(hostile(len(KINDS), seed=3)):
        if call.kind == "npz bomb":
            continue
        answer = client.post("/v1/batches" + call.query, content=call.body, headers=call.headers)
        assert 400 <= answer.status_code < 500, (call.kind, answer.status_code)
        assert set(answer.json()) == {"error"}, call.kind
        assert answer.json()["error"].endswith("."), call.kind
        if number % 10 == 0:
            both = [each.post("/v1/batches", content=GOOD).json()["images"] for each in (client, quiet)]
            assert both[0] == both[1]
    assert client.get("/v1/models").json()["client"] == "ward"


def test_a_bomb_is_refused_before_it_is_unpacked(start):
    client = start(limits=Limits(unpacked_mib=1))
    answer = client.post("/v1/batches", content=npz(drawn(20, 0, size=256)))
    assert answer.status_code == 413
    assert "1 MiB" in answer.json()["error"]


def packed(*members: tuple[str, bytes]) -> bytes:
    """A zip of members; two may have one name."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def array(shape: str) -> bytes:
    """An array's bytes whose header says this shape."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


PNG_FILE = io.BytesIO()
Image.fromarray(drawn(1, 0)[0]).save(PNG_FILE, "PNG")


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        (packed(("images.npy", array("(True, 8, 8)"))), "header"),
        (packed(("images.npy", array("(" * 3000))), "header"),
        (packed(("images.npy", array("(-1, 8, 8)"))), "header"),
        (packed(("images.npy", array("(1, 8, 8)")), ("images.npy", array("(1, 8, 8)"))), "two arrays"),
        (PNG_FILE.getvalue() * 2, "more than one image"),
        (PNG_FILE.getvalue() + b"more", "more than one image"),
    ],
    ids=["bool shape", "open brackets", "negative shape", "twice", "two PNGs", "bytes behind a PNG"],
)
def test_an_odd_file_is_a_sentence_and_no_other_image(start, body, fact):
    """numpy raises a TypeError and a tokenizer's error for the first two; readers take one of two images."""
    answer = start().post("/v1/batches", content=body)
    assert answer.status_code == 422
    assert fact in answer.json()["error"]
    assert start().post("/v1/batches", content=PNG_FILE.getvalue() + bytes(9)).status_code == 200  # padding


def test_a_query_that_says_nothing_to_a_path_is_refused(start):
    """Else a batch for ``?strean=a`` would teach the stream ``default``."""
    client = start()
    for query in ("?strean=a", "?stream=a&stream=b", "?limit=3"):
        answer = client.post("/v1/batches" + query, content=GOOD)
        assert answer.status_code == 400
        assert query[1:6] in answer.json()["error"]
    assert client.get("/v1/models?x=1").status_code == 400
    assert client.get("/v1/history").json()["batches"] == []


def test_streams_that_take_turns_answer_as_alone_and_so_after_a_reset(start):
    """Two streams, batch by batch, one of them reset in the middle, against each alone in a new service."""
    batches = [npz(drawn(3, seed)) for seed in range(4)]

    def probabilities(client, stream, body):
        said = client.post(f"/v1/batches?stream={stream}", content=body).json()["images"]
        return [image["probabilities"] for image in said]

    both, ward, lab = start(), start(), start()
    for number, body in enumerate(batches):
        other = batches[-1 - number]
        if number == 2:
            for client in (both, ward):
                assert client.post("/v1/streams/ward/reset").status_code == 204
        assert probabilities(both, "ward", body) == probabilities(ward, "ward", body)
        assert probabilities(both, "lab", other) == probabilities(lab, "lab", other)
    assert probabilities(both, "ward", batches[0]) != probabilities(both, "lab", batches[0])


def test_clients_are_known_by_token_and_see_their_own(start, tmp_path):
    path = tmp_path / "tokens"
    north, south = add_token(path, "north"), add_token(path, "south")
    assert north not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    client = start(tokens=Tokens(path))
    assert client.get("/v1/health").status_code == 200
    for headers in ({}, bearer("x"), bearer(north[:-1]), {"authorization": north}):
        for way in ("/v1/models", "/v1/history", "/metrics", "/v1/samples/0"):
            assert client.get(way, headers=headers).status_code == 401
        assert client.post("/v1/batches", content=GOOD, headers=headers).status_code == 401
    first = [client.post("/v1/batches", content=GOOD, headers=bearer(t)).json() for t in (north, south)]
    assert [each["batch"] for each in first] == [1, 1]  # a stream of one name is not another client's
    rows = client.get("/v1/history", headers=bearer(south)).json()["batches"]
    assert [row["client"] for row in rows] == ["south"]
    path.write_text(path.read_text().splitlines()[1] + "\n")  # north is taken out
    assert client.get("/v1/models", headers=bearer(north)).status_code == 401
    assert client.get("/v1/models", headers=bearer(south)).status_code == 200
    path.unlink()
    assert client.get("/v1/models", headers=bearer(south)).status_code == 503


def test_a_file_of_tokens_is_checked(tmp_path):
    path = tmp_path / "tokens"
    with refused("tokens", "--new-token"):
        Tokens(path)
    add_token(path, "north")
    with refused("north"):
        add_token(path, "north")
    with refused("a b"):
        add_token(path, "a b")
    path.write_text("# a comment\n\nnorth secret\n")
    with refused("line 3"):
        Tokens(path)


@pytest.mark.parametrize(
    ("given", "tokens", "facts"),
    [
        ({"host": "0.0.0.0"}, False, ("0.0.0.0", "--certificate", "--tokens")),
        ({"host": "192.0.2.1"}, True, ("192.0.2.1", "--certificate")),
        ({"host": "::"}, False, ("::", "--client-ca")),
        ({"certificate": "here"}, True, ("--key",)),
        ({"clients": "here"}, False, ("--client-ca", "--certificate")),
        ({"certificate": "here", "key": "gone"}, False, ("--key", "gone")),
    ],
)
def test_an_open_address_takes_tls_and_known_clients(tmp_path, given, tokens, facts):
    (tmp_path / "here").write_text("")
    files = {name: tmp_path / value for name, value in given.items() if name != "host"}
    with refused(*facts):
        Address(**(given | files)).check(tokens)


def test_this_machine_takes_neither(tmp_path):
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        Address(host).check(tokens=False)
    (tmp_path / "pem").write_text("")
    pem = tmp_path / "pem"
    Address("0.0.0.0", certificate=pem, key=pem).check(tokens=True)
    Address("0.0.0.0", certificate=pem, key=pem, clients=pem).check(tokens=False)


def test_a_slow_body_is_given_up(monkeypatch):
    async def pieces():
        yield b"begin"
        await asyncio.sleep(60)

    with pytest.raises(Refusal) as caught:
        asyncio.run(read_body({}, pieces(), Limits(body_seconds=0.01, slowest_kib=1e9)))
    assert caught.value.status == 408


def test_a_body_without_a_length_is_cut_off_at_the_limit(start):
    client = start(limits=Limits(body_mib=0.01))

    def pieces():
        for _ in range(100):
            yield bytes(1000)

    assert client.post("/v1/batches", content=pieces()).status_code == 413
    assert client.post("/v1/batches", content=bytes(20_000)).status_code == 413


def test_streams_are_bounded_and_an_idle_one_makes_room(start):
    client = start(limits=Limits(streams=2))

    def status(name):
        return client.post(f"/v1/batches?stream={name}", content=GOOD).status_code

    assert [status(name) for name in ("a", "b", "c", "a")] == [200, 200, 503, 200]
    client.delete("/v1/streams/a")
    assert status("c") == 200
    idle = start(limits=Limits(streams=1, idle_seconds=1e-9))
    assert [idle.post(f"/v1/batches?stream={n}", content=GOOD).json()["batch"] for n in "aab"] == [1, 2, 1]


def test_too_many_waiting_batches_and_a_late_turn_are_refused():
    """One batch is computed; the second waits and is given up; while two wait, a third is not let in."""
    limits, begun, over = Limits(waiting=2, answer_seconds=0.05), threading.Event(), threading.Event()
    streams = Streams(lambda: None, limits)

    def long():
        begun.set()
        over.wait(30)
        return "done"

    async def turn(name, work):
        async with streams.turn("me", name):
            return await streams.compute(work)

    async def all_at_once():
        first = asyncio.create_task(turn("a", long))
        await asyncio.to_thread(begun.wait, 30)
        second = asyncio.create_task(turn("b", lambda: "never"))
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as third:
            await turn("c", lambda: "never")
        with pytest.raises(Refusal) as late:
            await second
        over.set()
        return await first, third.value.status, late.value.status

    assert asyncio.run(all_at_once()) == ("done", 503, 503)
    assert (streams.waiting, streams.held) == (0, {})
    streams.close()


def test_a_foreign_page_cannot_call(start):
    client = start()
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"sec-fetch-site": "cross-site"},
    ):
        answer = client.post("/v1/batches", content=GOOD, headers=headers)
        assert answer.status_code == 403, headers
        assert "error" in answer.json()
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    own = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    assert client.post("/v1/batches", content=GOOD, headers=own).status_code == 200


def test_what_is_not_there_is_a_sentence(start):
    client = start()
    assert client.get("/docs").status_code == 404  # its scripts would come from elsewhere
    assert "error" in client.put("/v1/batches").json()
    assert client.get("/v1/history?limit=0").status_code == 400
    assert client.get("/v1/samples/0").status_code == 404
    assert 'status="404"' in client.get("/metrics").text
