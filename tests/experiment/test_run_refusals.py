"""What cannot be run is refused in a sentence before anything is written."""

import numpy as np
import pytest
from facts import refused

from fedmerge import run
from fedmerge.data import Arrays, SiteSpec, build_cohort
from fedmerge.errors import FedMergeError


def test_every_seed_is_checked_before_the_first_is_run(experiment, tmp_path):
    """Three hospitals at one skewed source: with one seed each has enough of it, with another it has not."""
    sites = [SiteSpec(name=name, source=None, unseen=name == "c") for name in ("a", "b", "c")]
    skewed = with_sites(experiment, *sites, source=grey(90), label_skew=1.0)

    def fits(seed):
        try:
            return bool(build_cohort(skewed["cohort"], seed).sites)
        except FedMergeError:
            return False

    fine = next(seed for seed in range(99) if fits(seed))
    short = next(seed for seed in range(99) if not fits(seed))
    training = skewed["training"] | {"batch_size": 2}
    with refused("seed", short):
        run(skewed | {"seeds": [fine, short], "training": training}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def with_sites(experiment, *sites, **changes):
    spec = experiment["cohort"].model_copy(update={"sites": tuple(sites)} | changes)
    return experiment | {"cohort": spec}


def grey(n, size=8, labels=None):
    rng = np.random.default_rng(0)
    given = np.arange(n) % 3 if labels is None else labels
    return Arrays(rng.integers(0, 255, (n, size, size)).astype(np.uint8), given)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (grey(60, labels=np.zeros(60, int)), "class"),
        (grey(16), "training images, fewer than training.batch_size 12"),
        (grey(60, size=9), "size:"),
        (Arrays(np.zeros((60, 8, 8, 3), np.uint8), np.arange(60) % 3), "channels:"),
    ],
)
def test_bad_hospitals_are_sentences_before_anything_is_written(experiment, tmp_path, first, words):
    sites = [SiteSpec(name="alpha", source=first), *experiment["cohort"].sites[1:]]
    with refused("alpha") as caught:
        run(with_sites(experiment, *sites), out=tmp_path / "run")
    assert words in str(caught.value)
    assert not list(tmp_path.glob("run/seed-0/federation/pool/*"))


@pytest.mark.parametrize(
    ("federation", "words"),
    [
        ({"quorum": 4}, ("federation.quorum", "4", "3", "hospitals")),
        (
            {"aggregate": {"method": "krum", "hostile": 1}},
            ("krum", "5", "3"),
        ),
        ({"aggregate": "multi-krum"}, ("multi-krum", "hostile", "1")),
        ({"faults": [{"kind": "nan", "site": "alhpa"}]}, ("alhpa", "federation.faults", "alpha")),
        (
            {"faults": [{"kind": "nan", "rounds": [4]}]},
            ("4", "beyond", "3"),
        ),
    ],
)
def test_a_federation_too_small_for_its_rules_is_a_sentence(experiment, tmp_path, federation, words):
    with refused(*words):
        run(experiment | {"federation": federation}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batch_size_one_with_batch_norm_is_a_sentence(experiment, tmp_path):
    training = experiment["training"] | {"batch_size": 1}
    with refused("batch", "norm"):
        run(experiment | {"training": training}, out=tmp_path / "run")


def test_folders_are_never_overwritten(experiment, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with refused(tmp_path / "run", "empty"):
        run(experiment, out=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with refused(tmp_path / "file" / "run", "written"):
        run(experiment, out=tmp_path / "file" / "run")


def test_an_unknown_device_is_a_sentence(experiment, tmp_path):
    with refused("gpu", "device"):
        run(experiment, device="gpu", out=tmp_path / "run")
