"""A service reads DICOM as a run does; sizes are checked before anything is decoded."""

from __future__ import annotations

import io
import json
import shutil
import sys
import zlib

import numpy as np
import pytest
import torch

from benchmarks.simulations.hostile_dicom import DICOM_KINDS, encapsulated, jpeg, jpeg_2000
from fedmerge.data.files.dicom import read_dicom
from fedmerge.data.files.dicom_size import dicom_size
from fedmerge.data.files.fit import fitted
from fedmerge.data.reading import ReadOptions
from fedmerge.serving.limits import Limits
from fedmerge.workflows.served import find_models, served
from tests.data.dicoms import dicom
from tests.facts import refused
from tests.serving.conftest import npz

pytest.importorskip("pydicom")
ROWS = np.arange(64, dtype=np.uint16).reshape(8, 8)
CT = {"Modality": "CT", "RescaleSlope": 2, "RescaleIntercept": -10, "WindowCenter": 50, "WindowWidth": 80}


def images(client, *bodies):
    files = [("images", (f"{k}.bin", body)) for k, body in enumerate(bodies)]
    return client.post("/v1/batches", files=files).raise_for_status().json()["images"]


def test_rescale_window_and_monochrome1_are_followed(tmp_path, start):
    """The file's own, by hand: x = 2 v - 10, then DICOM PS3.3 C.11.2.1.2.1; MONOCHROME1 is turned round."""
    dicom(tmp_path / "a", ROWS, **CT)
    dicom(tmp_path / "b", ROWS, **CT, PhotometricInterpretation="MONOCHROME1")
    shown = ((2.0 * ROWS - 10 - 49.5) / 79 + 0.5).clip(0, 1) * 255
    shown = np.rint(shown).astype(np.uint8)
    assert len(np.unique(shown)) > 20
    client = start("mean")
    two = images(client, (tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes())
    same = images(client, npz(np.stack([shown, 255 - shown])))
    assert [each["logits"] for each in two] == [each["logits"] for each in same]
    assert [each["name"] for each in two] == ["0.bin", "1.bin"]
    assert "P-1" not in json.dumps(client.get("/v1/history").json())


def test_a_compressed_image_is_read(tmp_path, start):
    """JPEG baseline inside DICOM, whose 8-bit values are taken as they are."""
    from PIL import Image
    from pydicom.uid import JPEGBaseline8Bit

    file = io.BytesIO()
    Image.fromarray((ROWS * 3).astype(np.uint8)).save(file, "JPEG")
    with Image.open(file) as picture:
        shown = np.asarray(picture)
    inside = encapsulated(file.getvalue(), JPEGBaseline8Bit)
    (tmp_path / "x").write_bytes(inside)
    pixels = read_dicom(tmp_path / "x", ReadOptions()).pixels
    assert np.abs(pixels.astype(int) - shown).max() <= 1  # two decoders round otherwise
    client = start("mean")
    one, same = (images(client, body)[0] for body in (inside, npz(pixels[None])))
    assert one["logits"] == same["logits"]


def test_the_run_s_read_options_are_the_service_s(tmp_path, folder, start):
    run = tmp_path / "run"
    (run / "seed-0" / "without-far").mkdir(parents=True)
    shutil.copytree(folder, run / "seed-0" / "without-far" / "pool")
    sites = [{"name": "near"}, {"name": "far", "read": {"window": "full"}}]
    cohort = {"read": {"percentiles": [0, 100], "fit": "pad"}, "sites": sites}
    (run / "config.yaml").write_text(json.dumps({"cohort": cohort}))
    assert find_models([run]).read == ReadOptions(percentiles=(0, 100), fit="pad")
    far = find_models([run], "far").read
    assert far == ReadOptions(window="full", fit="pad")
    plain = served(find_models([folder]), "mean", device="cpu")
    assert served(find_models([run], "far"), "mean", device="cpu").fingerprint != plain.fingerprint
    file = tmp_path / "x"
    dicom(file, np.arange(8 * 12, dtype=np.uint16).reshape(8, 12) * 600)
    pixels = fitted(torch.from_numpy(read_dicom(file, far).pixels)[None, None], 8, "pad")
    client = start("mean", read=far)
    sent, same = (images(client, body) for body in (file.read_bytes(), npz(pixels[0].numpy())))
    assert sent[0]["logits"] == same[0]["logits"]
    assert start("mean").post("/v1/batches", content=file.read_bytes()).status_code == 422  # no window
    (run / "config.yaml").write_text(json.dumps({"cohort": {**cohort, "read": {"window": 3}}}))
    with refused("config.yaml", "cohort: read", "window"):
        find_models([run])


def test_a_missing_extra_is_said(tmp_path, start, monkeypatch):
    dicom(tmp_path / "a", ROWS, **CT)
    client = start("mean")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    answer = client.post("/v1/batches", content=(tmp_path / "a").read_bytes())
    assert answer.status_code == 415
    assert "pip install 'fedmerge[dicom]'" in answer.json()["error"]


@pytest.mark.parametrize("kind", [kind for kind in DICOM_KINDS if kind != "DICOM cut"])
def test_sizes_are_checked_before_decoding(start, monkeypatch, kind):
    """None of them comes as far as a decoder."""
    decoded = []
    monkeypatch.setattr("fedmerge.serving.images.read_dicom", lambda *given: decoded.append(given))
    answer = start("mean").post("/v1/batches", content=DICOM_KINDS[kind](np.random.default_rng(0)))
    assert answer.status_code in (413, 422), answer.json()
    assert decoded == []


def test_an_image_is_not_larger_than_the_limits(tmp_path, start):
    dicom(tmp_path / "a", np.zeros((40, 30), np.uint8))
    client = start("mean", limits=Limits(pixels=1000))
    answer = client.post("/v1/batches", content=(tmp_path / "a").read_bytes())
    assert (answer.status_code, "30 x 40" in answer.json()["error"]) == (413, True)


def test_the_size_inside_counts(tmp_path):
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

    for name, syntax, frame, size in (
        ("j2k", JPEG2000Lossless, jpeg_2000(700, 300), (300, 700)),
        ("jpg", JPEGBaseline8Bit, jpeg(900, 20), (20, 900)),
    ):
        (tmp_path / name).write_bytes(encapsulated(frame, syntax))
        assert dicom_size(tmp_path / name) == size
    (tmp_path / "other").write_bytes(encapsulated(zlib.compress(bytes(99)), JPEG2000Lossless))
    with refused("other", "JPEG"):
        dicom_size(tmp_path / "other")
