"""A service answers as its node does in Python, to the bit, and says why."""

from __future__ import annotations

import asyncio
import io

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import fedmerge as fm
from fedmerge.merging import merge
from fedmerge.models import ModelPool
from fedmerge.serving.answers import mean_entropy
from fedmerge.serving.app import make_app
from fedmerge.serving.service import Service
from fedmerge.tasks import MULTICLASS
from fedmerge.testtime import TESTTIME, Static
from fedmerge.workflows.served import find_models, served
from tests.serving.conftest import CLASSES, HOSPITALS, drawn, npz

BATCHES = [drawn(n, seed) for seed, n in enumerate((6, 1, 5))]


def normalised(images: np.ndarray) -> torch.Tensor:
    """The batch that the network takes: (x / 255 - 0.5) / 0.5, with a channel."""
    return torch.from_numpy(images)[:, None].float().div(255).sub(0.5).div(0.5)


def in_python(folder, name):
    models = [ModelPool(folder).model(each) for each in HOSPITALS]
    if name == "mean":
        return Static(merge(models, "mean").model)
    return TESTTIME[name].call(models)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", [*TESTTIME.names(), "mean"])
def test_every_method_answers_as_in_python_to_the_bit(folder, start, name):
    client, node = start(name), in_python(folder, name)
    for number, images in enumerate(BATCHES, 1):
        logits, trace = node.observe(normalised(images))
        answer = client.post("/v1/batches", content=npz(images)).raise_for_status().json()
        assert answer["batch"] == number
        told = answer["images"]
        assert torch.equal(torch.tensor([each["logits"] for each in told], dtype=logits.dtype), logits)
        shares = torch.softmax(logits, dim=-1)
        found = [list(each["probabilities"].values()) for each in told]
        assert torch.equal(torch.tensor(found, dtype=shares.dtype), shares)
        assert [each["predicted"] for each in told] == [CLASSES[k] for k in logits.argmax(dim=1)]
        assert [each["confidence"] for each in told] == shares.amax(dim=1).tolist()
        assert answer["entropy"] == mean_entropy(logits, MULTICLASS)
        if trace is None:
            assert answer["leaning"] is None
        else:
            leaning = answer["leaning"]
            assert tuple(leaning["encoder"].values()) == trace.encoder
            assert tuple(leaning["head"].values()) == trace.head
            assert list(leaning["encoder"]) == list(HOSPITALS)


def test_it_is_the_public_node(folder, start):
    """fm.StreamAdaptive, with options from the command line, over pictures of which some are PNG."""
    client = start("stream-adaptive", ("batch_norm=average",))
    models = [ModelPool(folder).model(each) for each in HOSPITALS]
    node = fm.StreamAdaptive(models, batch_norm="average")
    images = BATCHES[0]
    parts = [("images", (f"{k}.png", png(image))) for k, image in enumerate(images[:2])]
    parts.append(("images", ("rest.npz", npz(images[2:]))))
    answer = client.post("/v1/batches", files=parts).raise_for_status().json()
    logits = node(normalised(images))
    assert torch.equal(torch.tensor([each["logits"] for each in answer["images"]]), logits)
    assert [each["name"] for each in answer["images"]][:3] == ["0.png", "1.png", "rest.npz [0]"]
    assert answer["guard"] == {"armed": True, "fallback": []}
    assert client.get("/v1/models").json()["options"] == {"batch_norm": "average"}


def test_pictures_are_prepared_as_a_cohorts_files_are(folder, tmp_path, start):
    """Colour to grey and another size, as ``folder:`` sources are read; and a JPEG as Pillow decodes it."""
    from fedmerge.data.files.pictures import read_picture
    from fedmerge.data.images.images import resize, to_channels

    path = tmp_path / "x.jpg"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (21, 17, 3), dtype=np.uint8)).save(path)
    answer = start("mean").post("/v1/batches", content=path.read_bytes()).raise_for_status().json()
    pixels = resize(to_channels(read_picture(path), 1), 8)
    logits, _ = in_python(folder, "mean").observe(normalised(pixels[:, 0].numpy()))
    assert answer["images"][0]["logits"] == logits[0].tolist()
    (note,) = answer["notes"]
    assert "17 x 21 pixels" in note
    assert "stretched" in note
    square = start("mean").post("/v1/batches", content=npz(drawn(2, 0))).raise_for_status().json()
    assert square["notes"] == []


def test_a_reset_stream_and_a_new_one_meet_their_next_batch_as_the_first(start):
    client, body = start(), npz(BATCHES[0])

    def images(path="/v1/batches"):
        return client.post(path, content=body).raise_for_status().json()["images"]

    first, second = images(), images()
    assert first != second  # the batch norms have learned
    assert images("/v1/batches?stream=other") == first
    assert client.post("/v1/streams/default/reset").status_code == 204
    assert images() == first
    assert client.delete("/v1/streams/default").status_code == 204
    assert images() == first
    assert client.post("/v1/streams/nobody/reset").status_code == 404


def test_batches_are_answered_in_the_order_of_their_calls(folder):
    """Many clients at once: each stream's batches have the numbers, and the bits, of their order."""
    what = served(find_models([folder]), device="cpu")
    service = Service(what)
    names, turns = ("a", "b", "c"), 8
    bodies = {name: [drawn(2, seed=10 * k + n) for n in range(turns)] for k, name in enumerate(names)}

    async def all_at_once():
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            calls = [
                client.post(f"/v1/batches?stream={name}", content=npz(bodies[name][n]))
                for n in range(turns)
                for name in names
            ]
            return [each.json() for each in await asyncio.gather(*calls)]

    answers = asyncio.run(all_at_once())
    service.close()
    for name in names:
        node, own = what.build(), [each for each in answers if each["stream"] == name]
        assert [each["batch"] for each in own] == list(range(1, turns + 1))
        for images, answer in zip(bodies[name], own, strict=True):
            assert [each["logits"] for each in answer["images"]] == node(normalised(images)).tolist()


def test_the_description_is_complete(start):
    """OpenAPI names the paths, what a body may be, the fields of an answer, and nothing of the page."""
    told = start().get("/openapi.json").json()
    assert {"/v1/batches", "/v1/health", "/v1/models", "/v1/history", "/metrics"} <= told["paths"].keys()
    assert "/" not in told["paths"]
    post = told["paths"]["/v1/batches"]["post"]
    assert {"image/png", "image/jpeg", "multipart/form-data"} <= post["requestBody"]["content"].keys()
    fields = told["components"]["schemas"]["Answer"]["properties"]
    parts = {"images", "leaning", "guard", "drift", "notes", "seconds", "models", "fingerprint"}
    assert fields.keys() == parts | {"stream", "batch", "method", "entropy"}


def test_a_guard_that_falls_back_says_why(start):
    client = start("entropy-adaptive", ("guard={coefficient: 0.3, patience: 1}",))  # one of three has more
    answer = client.post("/v1/batches", content=npz(BATCHES[0])).raise_for_status().json()
    (reason,) = answer["guard"]["fallback"]
    assert "0.3" in reason
    (row,) = client.get("/v1/history").json()["batches"]
    assert row["fallback"] == [reason]
    assert "fedmerge_serve_fallbacks_total 1.0" in client.get("/metrics").text
