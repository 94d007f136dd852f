"""Batches from the disk to a device: in order, ahead, the same bits. No GPU: what is pinned is counted."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from fedmerge.data.images.stored import StoredImages, stored
from fedmerge.errors import FedMergeError
from fedmerge.models import feeding
from fedmerge.models.feeding import AHEAD, batches, read_ahead
from fedmerge.models.inputs import Normalisation
from fedmerge.models.state import state_hash
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.seeding import Draws
from fedmerge.training import TrainingOptions, fit
from tests.facts import refused

IMAGES = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ORDER = torch.randperm(50, generator=torch.Generator().manual_seed(1))


def image_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def test_two_batches_are_read_while_one_is_in_use() -> None:
    """When batch k is handed out, at most k + AHEAD have been asked for, and all of these come in the end."""
    asked: list[Tensor] = []

    def read(index: Tensor) -> Tensor:
        asked.append(index)
        return IMAGES[index]

    parts = ORDER.split(8)
    for number, (index, batch) in enumerate(read_ahead(read, parts), 1):
        assert torch.equal(index, parts[number - 1])
        assert torch.equal(batch, IMAGES[index])
        assert number <= len(asked) <= number + AHEAD
    assert len(asked) == len(parts)
    assert not image_threads()


def test_a_fault_comes_where_its_batch_would_and_whoever_stops_leaves_no_thread() -> None:
    def read(index: Tensor) -> Tensor:
        if 3 in index:
            raise FedMergeError("pixels.bin was cut short")
        return IMAGES[index]

    reading = read_ahead(read, torch.arange(10).split(2))
    assert next(reading)[0].tolist() == [0, 1]
    with refused("pixels.bin", "cut short"):
        next(reading)
    assert not image_threads()
    some = read_ahead(lambda index: IMAGES[index], ORDER.split(5))
    next(some)
    some.close()
    assert not image_threads()


class Gpu(str):
    """What ``batches`` asks of a device, of one that is not here: its type is cuda, and it is the CPU."""

    type = "cuda"


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that were pinned; nothing is, because that takes a GPU."""
    found: list[torch.Size] = []

    def pin(tensor: Tensor) -> Tensor:
        found.append(tensor.shape)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    return found


def test_stored_images_for_a_gpu_are_pinned_batch_by_batch_and_others_are_not(pinned) -> None:
    images, parts = stored(IMAGES), ORDER.split(16)
    found = list(batches(images, parts, Gpu("cpu")))  # type: ignore[arg-type]
    assert [len(shape) and shape[0] for shape in pinned] == [16, 16, 16, 2]
    for (index, batch), part in zip(found, parts, strict=True):
        assert torch.equal(index, part)
        assert torch.equal(batch, IMAGES[part])
    pinned.clear()
    list(batches(images, parts, torch.device("cpu")))
    list(batches(IMAGES, parts, Gpu("cpu")))  # type: ignore[arg-type]
    assert pinned == []


def test_a_training_that_reads_ahead_ends_with_the_same_bits(pinned, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=8, options={"width": 4})
    options = TrainingOptions(epochs=2, batch_size=12, augment=("shift",), recipe="lp-ft")
    hashes = []
    for images, ahead in ((IMAGES, False), (stored(IMAGES), False), (stored(IMAGES), True)):
        if ahead:
            monkeypatch.setattr(
                "fedmerge.training.local.batches",
                lambda images, parts, device: batches(images, parts, Gpu("cpu")),  # type: ignore[arg-type]
            )
        model = build(spec, 0)
        fit(
            model,
            images,
            torch.arange(50) % 2,
            options,
            normalise=Normalisation.named("half"),
            draws=Draws(3),
        )
        hashes.append(state_hash(model.state_dict()))
    assert len(set(hashes)) == 1
    assert len(pinned) == 2 * 5
    assert isinstance(feeding.on_device(stored(IMAGES), torch.device("meta")), StoredImages)
    assert feeding.on_device(IMAGES, torch.device("meta")).device.type == "meta"
