"""Large arrays, scanners, shifts and exports: the bits of those in memory, and memory that does not grow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmerge.data import CohortSpec, Split, build_cohort, scanner
from fedmerge.data.cache import made, place
from fedmerge.data.export import export
from fedmerge.data.images import stored as stored_module
from fedmerge.data.images.stored import StoredImages, stored
from fedmerge.data.scanner import SHIFTS, Appearance
from fedmerge.data.sources import npz_writing
from fedmerge.data.sources.npz import read_npz
from fedmerge.experiment.configuration.config import EvaluationConfig
from fedmerge.experiment.stages.target_streams import TargetStreams
from tests.facts import refused


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own cache that even small arrays use."""
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(made, "SMALL_DECODED", 0)
    return tmp_path / "cache"


def npz(
    path: Path, images: int, side: int = 8, channels: int = 1, save: Callable[..., None] = np.savez
) -> Path:
    rng = np.random.default_rng(0)
    shape = (side, side + 2) if channels == 1 else (side, side + 2, channels)
    arrays = {}
    for name, count in (("train", images), ("val", images // 4), ("test", images // 4)):
        arrays[f"{name}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{name}_labels"] = np.arange(count) % 2
    save(path, **arrays)
    return path


@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize("count", [33, 64])
def test_a_scanner_shows_stored_images_as_it_shows_those_in_memory(
    kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last piece is one image: noise is drawn for all pixels at once there, here in pieces."""
    images = torch.randint(
        0, 256, (count, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    monkeypatch.setattr(stored_module, "AT_ONCE", 16 * 3 * 81)
    looks = [Appearance(kind=kind, severity=3), Appearance(kind="noise", severity=1)]
    plain = scanner.apply(images, looks, 5, "coast")
    assert torch.equal(scanner.apply(stored(images), looks, 5, "coast"), plain)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_large_npz_has_the_same_bits_as_a_small_one(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, channels: int, save: Callable[..., None]
) -> None:
    path = npz(tmp_path / "a.npz", 40, channels=channels, save=save)
    large = read_npz(path, "npz:a")
    assert isinstance(large.train.images, StoredImages)
    monkeypatch.setenv(place.FOLDER, "off")
    small = read_npz(path, "npz:a")
    for one, other in zip(large.splits, small.splits, strict=True):
        assert torch.equal(one.images.clone(), other.images)
        assert torch.equal(one.labels, other.labels)


def test_a_cohort_of_large_arrays_behind_scanners_is_the_cohort_in_memory(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resized, cropped, in colour, limited, divided, behind a scanner; the second time from the cache."""
    npz(tmp_path / "a.npz", 60)
    look = [{"kind": "noise", "severity": 2}, {"kind": "bias-field", "severity": 2}]
    sites = [
        {"name": "north", "source": f"npz:{tmp_path / 'a.npz'}", "scanner": look},
        {"name": "coast", "source": f"npz:{tmp_path / 'a.npz'}", "limit": 10, "unseen": True},
    ]
    spec = CohortSpec.model_validate(
        {"name": "c", "size": 12, "channels": 3, "read": {"fit": "crop"}, "sites": sites}
    )
    first, again = build_cohort(spec, 1), build_cohort(spec, 1)
    entries = {entry.key for entry in place.entries(cache)}
    assert len(entries) == 6  # three arrays, two hospitals' images of the cohort's size, one scanner's
    other = build_cohort(spec, 2)
    assert {
        entry.key for entry in place.entries(cache)
    } > entries  # another seed divides, and draws, otherwise
    monkeypatch.setenv(place.FOLDER, "off")
    plain = build_cohort(spec, 1)
    for name in ("north", "coast"):
        for split in ("train", "val", "test"):
            expected = getattr(plain[name], split)
            for cohort in (first, again):
                found = getattr(cohort[name], split)
                assert isinstance(found.images, StoredImages)
                assert torch.equal(found.images.clone(), expected.images)
                assert torch.equal(found.labels, expected.labels)
        found, expected = first[name].facts, plain[name].facts
        assert found is not None
        assert expected is not None
        assert found.digests == expected.digests
    assert not torch.equal(other["north"].train.images.clone(), plain["north"].train.images)


def test_an_npz_that_was_written_anew_is_read_anew_and_a_cut_one_is_refused(
    tmp_path: Path, cache: Path
) -> None:
    path = npz(tmp_path / "a.npz", 40)
    before = read_npz(path, "npz:a").train.images.clone()
    npz(tmp_path / "a.npz", 44)
    assert len(read_npz(path, "npz:a").train.images) == 44 > len(before)
    npz(path, 40, save=np.savez_compressed)
    content = path.read_bytes()
    path.write_bytes(content[:2000] + bytes(200) + content[2200:])
    with refused("a.npz", "damaged"):
        read_npz(path, "npz:a")


PEAK = """
import resource, sys
from fedmerge.data import CohortSpec, build_cohort
from fedmerge.data.cache import made
made.SMALL_DECODED = 2**20
ballast = bytearray(b"1") * 2**28  # imports leave a peak above what is in use: what follows must exceed it
for given in sys.argv[2:]:
    cohort = build_cohort(CohortSpec.model_validate_json(given), 0)
    exec(sys.argv[1])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    del cohort
"""


def grown(small: CohortSpec, large: CohortSpec, then: str = "") -> int:
    """Return by how many bytes the peak of a process grows that builds one cohort, and ``then`` another."""
    given = [sys.executable, "-c", PEAK, then, small.model_dump_json(), large.model_dump_json()]
    before, after = subprocess.run(given, capture_output=True, text=True, check=True).stdout.split()
    return (int(after) - int(before)) * (1 if sys.platform == "darwin" else 1024)


def test_memory_does_not_grow_with_the_images_of_an_npz_behind_a_scanner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 75 MB more pixels, cropped and shown by a scanner, less than half is in memory at a time."""
    specs = []
    for images in (1200, 4200):
        path = npz(tmp_path / f"{images}.npz", images, 128)
        look = [{"kind": "gamma", "severity": 2}]
        sites = [{"name": name, "source": f"npz:{path}", "scanner": look} for name in ("north", "coast")]
        specs.append(
            CohortSpec.model_validate({"name": "c", "size": 128, "read": {"fit": "crop"}, "sites": sites})
        )
    more = 3000 * 3 // 2 * 128 * 130
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "cache"))
    assert grown(*specs) < more / 2
    monkeypatch.setenv(place.FOLDER, "off")
    assert grown(*specs) > more


EXPORT_AND_SHIFT = """
from pathlib import Path
from fedmerge.data.export import export
from fedmerge.experiment.configuration.config import EvaluationConfig
from fedmerge.experiment.stages.target_streams import TargetStreams
export(cohort, Path(FOLDER))
given = EvaluationConfig(streams=["iid", {"drift": "noise"}], shifts=["contrast"], severities=[1])
for *_, target in TargetStreams.of("coast", cohort["coast"].train, given, 0).views(given.shifted):
    for piece in target.split.images.split(64):
        piece.numpy()
"""


def test_memory_does_not_grow_with_images_that_are_exported_and_shifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 60 MB more training images, less than half is in memory at a time; a drift has five severities."""
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "cache"))
    specs, sizes = [], (1000, 4600)
    for images in sizes:
        source = npz(tmp_path / f"{images}.npz", images, 128)
        specs.append(
            CohortSpec.model_validate({"name": "c", "sites": [{"name": "coast", "source": f"npz:{source}"}]})
        )
    then = EXPORT_AND_SHIFT.replace("FOLDER", f"{str(tmp_path)!r} + '/' + str(len(cohort['coast'].train))")
    assert grown(*specs, then) < (sizes[1] - sizes[0]) * 128 * 130 / 2


def test_what_is_exported_of_stored_images_is_what_is_exported_of_those_in_memory(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pieces, the last one short, in RGB; every array is the source's."""
    source = npz(tmp_path / "a.npz", 21, channels=3)
    monkeypatch.setattr(npz_writing, "AT_ONCE", 8 * 8 * 10 * 3)
    spec = CohortSpec.model_validate({"name": "c", "sites": [{"name": "a", "source": f"npz:{source}"}]})
    large = build_cohort(spec, 0)
    assert isinstance(large["a"].train.images, StoredImages)
    export(large, tmp_path / "stored")
    monkeypatch.setenv(place.FOLDER, "off")
    export(build_cohort(spec, 0), tmp_path / "memory")
    held, plain, given = (
        np.load(path)
        for path in (*(tmp_path / each / "a" / "images.npz" for each in ("stored", "memory")), source)
    )
    assert set(held.files) == set(plain.files) == set(given.files)
    for key in given.files:
        for found in (held, plain):
            assert found[key].dtype == (np.uint8 if key.endswith("images") else np.int64)
            assert np.array_equal(found[key], given[key])


@pytest.mark.parametrize("kind", ["noise", "contrast", "bias-field"])
def test_shifts_and_drifts_of_stored_images_are_those_of_images_in_memory(
    kind: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Piece by piece, each with the image of its place; the second time, and elsewhere, from the cache."""
    images = torch.randint(
        0, 256, (37, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    monkeypatch.setattr(stored_module, "AT_ONCE", 16 * 64)
    given = EvaluationConfig(streams=["iid", {"drift": kind}], shifts=[kind], severities=[2, 5])
    labels = torch.arange(37) % 2
    held = TargetStreams.of("coast", Split(stored(images), labels), given, 3)
    plain = TargetStreams.of("coast", Split(images, labels), given, 3)
    for _ in range(2):
        pairs = list(zip(held.views(given.shifted), plain.views(given.shifted), strict=True))
        assert len(pairs) == 4
        for (*one, found), (*other, expected) in pairs:
            assert one == other
            assert isinstance(found.split.images, StoredImages)
            assert torch.equal(found.split.images.clone(), expected.split.images)
        assert len(place.entries(cache)) == 3  # two severities and the drift
