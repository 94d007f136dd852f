"""Decoded images on disk: the same bits, made once, whole or not at all, within a bound."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedmerge.data import CohortSpec, build_cohort
from fedmerge.data.cache import made, place
from fedmerge.data.files import many
from fedmerge.data.files.many import Look
from fedmerge.data.files.one import Item
from fedmerge.data.images.facts import Facts, facts_of
from fedmerge.data.images.pixels import PixelFile
from fedmerge.data.images.stored import StoredImages, join, stored
from fedmerge.data.progress import telling
from fedmerge.models.inputs import Normalisation
from fedmerge.seeding import Draws
from fedmerge.training import TrainingOptions, fit
from tests.facts import refused

IMAGES = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def some(count: int, folder: Path, size: int = 16) -> list[Item]:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8)).save(folder / f"{i:03}.png")
    return [Item(file) for file in sorted(folder.iterdir())]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own cache that even small sources use."""
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(made, "SMALL", 0)
    return tmp_path / "cache"


OPERATIONS = {
    "index": lambda x: x[torch.tensor([3, 1, 3])],
    "mask": lambda x: x[torch.arange(20) % 3 == 0],
    "list": lambda x: x[[1, 2]],
    "array": lambda x: x[np.array([4, 0])],
    "one": lambda x: x[5],
    "part": lambda x: x[2:9],
    "stride": lambda x: x[::3],
    "channel": lambda x: x[:, 1],
    "split": lambda x: torch.cat(x.split(7)[1:]),
    "pieces": lambda x: torch.cat(x.split([5, 15])[::-1]),
    "with a tensor": lambda x: torch.cat([x, IMAGES]),
    "float": lambda x: x.to(torch.float32),
    "mirror": lambda x: x.flip(-1),
    "normalised": lambda x: Normalisation.named("half")(x[:4]),
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "copy": lambda x: copy.deepcopy(x),
    "pickled": lambda x: pickle.loads(pickle.dumps(x)),
    "clone": lambda x: x.clone(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_stored_images_are_the_same_as_those_in_memory(name: str) -> None:
    two = join([stored(IMAGES[:12].clone()), stored(IMAGES[12:].clone())])
    assert torch.equal(OPERATIONS[name](two).clone(), OPERATIONS[name](IMAGES))


def test_stored_images_cannot_be_changed() -> None:
    images = stored(IMAGES.clone())
    for change in (lambda: images.mul_(2), lambda: images.__setitem__(0, 1), lambda: images.fill_(1)):
        with refused("clone", kind=RuntimeError):
            change()


def test_slices_and_joins_read_nothing() -> None:
    images = stored(IMAGES)
    for each in (images[3:7], *images.split(6), torch.cat([images, images]), images.pick(torch.tensor([1]))):
        assert type(each) is StoredImages


def test_files_are_decoded_once_and_give_the_same_bits(cache: Path, tmp_path: Path, monkeypatch) -> None:
    items = some(30, tmp_path / "images")
    told: list[tuple[str, float, float]] = []
    with telling(lambda *what: told.append(what)):
        images, about = made.read_items(items, Look(size=8), "folder:images")
    assert told[-1] == ("reading folder:images", 30, 30)
    plain, other = many.in_memory(items, Look(size=8), "it")
    assert type(images) is StoredImages
    assert torch.equal(images.clone(), plain)
    assert about.sizes == other.sizes == [(16, 16)] * 30
    facts, wanted = images.facts(), facts_of(plain)
    assert (facts.digests, facts.lowest.tolist()) == (wanted.digests, wanted.lowest.tolist())
    monkeypatch.setattr(made, "decode", lambda *a: pytest.fail("it was decoded again"))
    again, _ = made.read_items(items, Look(size=8), "it")
    assert torch.equal(again.clone(), plain)
    for item in items:  # moved: other stamps, the same content
        os.utime(item.file, ns=(1, 1))
    assert torch.equal(made.read_items(items, Look(size=8), "it")[0].clone(), plain)


def test_other_options_or_content_are_other_entries(cache: Path, tmp_path: Path) -> None:
    items = some(10, tmp_path / "images")
    made.read_items(items, Look(size=8), "it")
    made.read_items(items, Look(size=9), "it")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(items[0].file)
    images, _ = made.read_items(items, Look(size=8), "it")
    assert images[0].max() == 0
    assert len(place.entries(cache)) == 3


def test_what_was_interrupted_leaves_nothing_that_counts(cache: Path, tmp_path: Path, monkeypatch) -> None:
    items = some(10, tmp_path / "images")

    def stopped(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(many, "read_image", stopped)
    with pytest.raises(KeyboardInterrupt):
        made.read_items(items, Look(), "it")
    monkeypatch.undo()
    monkeypatch.setenv(place.FOLDER, str(cache))
    monkeypatch.setattr(made, "SMALL", 0)
    key = made.content_key(items, Look())
    left = cache / f".{key}.0123.part"  # as a process leaves it that was killed
    left.mkdir()
    (left / "pixels.bin").write_bytes(b"half")
    assert place.entries(cache) == []
    images, _ = made.read_items(items, Look(), "it")
    assert len(images) == 10
    assert not left.exists()


def test_the_cache_is_bounded_and_the_longest_unused_goes_first(
    cache: Path, tmp_path: Path, monkeypatch
) -> None:
    """Each entry has 10 x 64 x 64 bytes of pixels; the bound holds two of them and their notes."""
    monkeypatch.setenv(place.LIMIT, "0.0001")
    for i in range(3):
        made.read_items(some(10, tmp_path / f"images{i}", 64 + i)[:10], Look(size=64), f"source {i}")
        for age, entry in enumerate(place.entries(cache)):
            os.utime(entry.folder / place.TEXT, (1000 - age + 10 * i, 1000 - age + 10 * i))
    assert len(place.entries(cache)) == 2
    assert "source 2" in {entry.text for entry in place.entries(cache)}
    with refused("FEDMERGE_CACHE_GB", "0.000196 GB"):
        made.read_items(some(10, tmp_path / "large"), Look(size=140), "large")
    monkeypatch.setenv(place.LIMIT, "much")
    with refused("much", "FEDMERGE_CACHE_GB"):
        place.limit()


def test_a_cleaned_or_closed_cache_still_gives_images(cache: Path, tmp_path: Path, monkeypatch) -> None:
    items = some(10, tmp_path / "images")
    images, _ = made.read_items(items, Look(), "it")
    plain = images.clone()
    count, size = place.clean(cache)
    assert (count, place.entries(cache)) == (1, [])
    assert size > 2560
    assert torch.equal(images.clone(), plain)  # whoever has it open keeps it
    monkeypatch.setenv(place.FOLDER, "off")
    assert type(made.read_items(items, Look(), "it")[0]) is torch.Tensor


def test_a_damaged_entry_is_named(cache: Path, tmp_path: Path) -> None:
    items = some(10, tmp_path / "images")
    made.read_items(items, Look(), "it")
    (entry,) = place.entries(cache)
    with (entry.folder / place.PIXELS).open("ab") as file:
        file.write(b"1")
    with refused("damaged", "2,561", "2,560", "fedmerge cache clean"):
        made.read_items(items, Look(), "it")


def test_every_damaged_file_is_counted_and_nothing_is_kept(cache: Path, tmp_path: Path) -> None:
    items = some(10, tmp_path / "images")
    for at in (2, 5):
        items[at].file.write_bytes(b"no image")
    with refused("002.png", "1 more files", "005.png"):
        made.read_items(items, Look(), "it")
    assert place.entries(cache) == []


def test_a_colour_image_among_grey_ones_makes_all_colour(cache: Path, tmp_path: Path) -> None:
    items = some(10, tmp_path / "images")
    Image.new("RGB", (16, 16), (1, 2, 3)).save(items[7].file)
    images, about = made.read_items(items, Look(), "it")
    assert images.shape == (10, 3, 16, 16)
    assert images[7, :, 0, 0].tolist() == [1, 2, 3]
    assert len(about.sizes) == 10


def test_a_cohort_from_the_cache_trains_to_the_same_bits(cache: Path, data_here: Path, monkeypatch) -> None:
    for name in ("ill", "well"):
        some(40, data_here / "clinic" / name)
    spec = CohortSpec(
        name="t", source="folder:clinic", size=12, sites=[{"name": "a"}, {"name": "b", "unseen": True}]
    )

    def trained() -> list[torch.Tensor]:
        cohort = build_cohort(spec, 0)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2))
        options = TrainingOptions(batch_size=8, epochs=2, augment=("flip", "shift"))
        site = cohort["a"]
        fit(
            model,
            site.train.images,
            site.train.labels,
            options,
            normalise=Normalisation.named("half"),
            draws=Draws(0),
        )
        return [*model.parameters(), site.everything.images.clone(), site.everything.labels]

    kept = trained()
    assert type(build_cohort(spec, 0)["a"].train.images) is StoredImages
    monkeypatch.setenv(place.FOLDER, "off")
    assert all(torch.equal(one, other) for one, other in zip(kept, trained(), strict=True))


def test_images_are_read_at_their_places_and_a_file_cut_short_is_a_sentence(tmp_path: Path) -> None:
    pixels = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 1, 2, 3)
    path = tmp_path / "pixels"
    path.write_bytes(pixels.tobytes())
    nothing = np.zeros(5, dtype=np.uint8)
    facts = Facts((b"",) * 5, nothing, nothing)
    file = PixelFile(path, (5, 1, 2, 3), facts)
    for places in ([4, 0, 4, 2], [], [1]):
        assert np.array_equal(file.take(torch.tensor(places, dtype=torch.int64)).numpy(), pixels[places])
    with pytest.raises(IndexError):
        file.take(torch.tensor([5]))
    with refused(str(path), "30", "36"):
        PixelFile(path, (6, 1, 2, 3), facts)
    os.truncate(path, 20)
    assert np.array_equal(file.take(torch.tensor([2])).numpy(), pixels[[2]])
    with refused(str(path)):
        file.take(torch.tensor([3]))
