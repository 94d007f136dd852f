"""What is finished is kept: a seed that is interrupted after every single piece ends as if it never was."""

import shutil
from urllib.parse import quote

import pandas as pd
import pytest

from fedmerge.engine import checkpoints
from fedmerge.engine.checkpoints import Checkpoints
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.kinds import MODELS
from fedmerge.experiment.stages.evaluation import Measured
from fedmerge.experiment.stages.record import LISTS, Record
from fedmerge.experiment.stages.seed import run_seed
from fedmerge.federation.hospital import hospital
from fedmerge.federation.server import journal
from fedmerge.models import ModelPool
from fedmerge.storage.files import read_sealed, write_text
from fedmerge.training import fit

COMMON = {"experiment": "tiny", "config_hash": "x"}


class Interrupted(BaseException):
    """Where a process ends."""


@pytest.fixture
def tried(experiment):
    """The tiny experiment with every kind of predictor, one of each of which cannot be run."""
    given = experiment | {
        "fusion": [*experiment["fusion"], {"method": "mean", "label": "by-hand", "weights": [1.0, 2.0]}],
        "testtime": [{"method": "entropy-adaptive", "tune": "coefficients.temperature"}, "tent", "lame"],
    }
    given["evaluation"] = given["evaluation"] | {
        "streams": ["iid", "temporal", {"drift": "contrast"}],
        "shifts": ["noise"],
        "severities": [1],
        "images": 32,
    }
    return read_experiment(given)[0]


def finish(experiment, cohort, folder, record):
    run_seed(experiment, cohort, 0, folder, record, "cpu")
    return {name: record.frame(name, []) for name in LISTS}


def hashes(folder):
    """Every model that the seed left, by its place."""
    pools = {card.parent for card in folder.rglob("*.json") if card.with_suffix(".safetensors").is_file()}
    found = {}
    for place in pools:
        pool = ModelPool(place)
        pool.verify()
        found |= {str((place / name).relative_to(folder)): pool.card(name).sha256 for name in pool}
    return found


def same(rows, others):
    for name in LISTS:
        first, second = (
            frame.drop(columns=["seconds"], errors="ignore") for frame in (rows[name], others[name])
        )
        pd.testing.assert_frame_equal(first, second)


def test_interrupted_after_every_piece_it_ends_with_the_same_bits(tried, cohort, tmp_path, monkeypatch):
    """The process ends at the first pause after something new is on the disk, until nothing is new."""
    whole = finish(tried, cohort, tmp_path / "whole", Record(COMMON))
    assert set(whole["failures"]["where"]) == {"by-hand"}
    written, new = [], []
    for module in (checkpoints, journal):
        write = module.write_sealed

        def noting(path, body, write=write):
            new.append(path)
            return write(path, body)

        monkeypatch.setattr(module, "write_sealed", noting)

    def pause():
        if new:
            raise Interrupted

    for _ in range(200):
        new.clear()
        try:
            rows = finish(tried, cohort, tmp_path / "again", Record(COMMON, pause=pause))
            break
        except Interrupted:
            written.append(str(new[0].relative_to(tmp_path / "again" / "federation" / "journal")))
    assert not new
    same(whole, rows)
    assert hashes(tmp_path / "again") == hashes(tmp_path / "whole")
    assert len(written) == len(set(written))  # nothing is done twice
    steps = ("training/rounds", "training/fine-tune", "training/diagnosis", "training/pooled/delta")
    for piece in ("rounds/0002", "training/fine-tune/beta", *steps):
        assert f"{piece}.json" in written
    for task in ("iid none 0", "drift-contrast none 0", "temporal noise 1"):
        assert f"evaluation/delta/tent/{quote(f'tent {task}')}.json" in written
    for part in ("alone/alone%3Abeta%20iid%20none%200", "greedy/fusion", "entropy-adaptive-tuned/tuning"):
        assert f"evaluation/delta/{part}.json" in written
    for label in ("majority-class", "alone", "pooled", "by-hand", "ensemble-logits", "lame", "tent"):
        assert f"evaluation/delta/{label}.json" in written
    left = tmp_path / "again" / "federation" / "journal"
    assert sorted(path.name for path in left.iterdir()) == ["evaluation", "rounds", "training"]
    assert all(path.is_file() for path in (left / "evaluation" / "delta").iterdir())  # no parts


def test_a_hospital_that_failed_is_not_asked_again(experiment, cohort, tmp_path, monkeypatch):
    """Beta fails in its fine-tuning; the process ends after gamma's, and the next one knows of both.

    With a quorum of two the next process has one usable answer of its own and one from before.
    """
    asked: list[str] = []

    def fail_at_beta(*args, **kwargs):
        if kwargs["draws"].purpose == "fine-tune":
            asked.append(kwargs["draws"].site)
            if asked[-1] == "beta":
                raise FedMergeError("the power failed.")
        return fit(*args, **kwargs)

    monkeypatch.setattr(hospital, "fit", fail_at_beta)
    given = experiment | {"fusion": ["mean"], "testtime": [], "federation": {"quorum": 2}}
    checked = read_experiment(given)[0]
    whole = finish(checked, cohort, tmp_path / "whole", Record(COMMON))
    assert list(whole["failures"]["site"]) == ["beta"]
    save = Checkpoints.save
    for last in ("alpha", "gamma"):

        def dies_after(self, *name, last=last):
            if name[-1] == last:
                self.pause = interrupt
            return save(self, *name)

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", dies_after)
            with pytest.raises(Interrupted):
                finish(checked, cohort, tmp_path / last, Record(COMMON))
        asked.clear()
        same(whole, finish(checked, cohort, tmp_path / last, Record(COMMON)))
        assert asked == (["beta", "gamma"] if last == "alpha" else [])


def interrupt():
    raise Interrupted


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def kept():
    """A finished seed, once the first test made it: its folder and its rows."""
    return {}


@pytest.mark.parametrize(
    "place",
    [
        "pool/beta.safetensors",
        "pool/beta.json",
        "delta/fused/greedy.safetensors",
        "delta/references/pooled.safetensors",
        "journal/training/fine-tune.json",
        "journal/evaluation/delta/greedy.json",
        "journal/rounds/0002-global.safetensors",
    ],
)
def test_what_is_damaged_is_done_again_and_said(experiment, cohort, tmp_path, kept, place):
    checked = read_experiment(experiment | {"fusion": ["greedy"], "testtime": []})[0]
    if not kept:
        kept |= {"folder": tmp_path / "whole"}
        kept |= {"rows": finish(checked, cohort, kept["folder"], Record(COMMON))}
    whole, tmp_path = kept["rows"], shutil.copytree(kept["folder"], tmp_path / "copy")
    models = hashes(tmp_path)
    flip(tmp_path / "federation" / place)
    record = Record(COMMON)
    same(whole, finish(checked, cohort, tmp_path, record))
    assert hashes(tmp_path) == models
    if place.startswith("journal/rounds"):
        assert not record.remarks  # nothing needs it any more
    else:
        assert place in record.remarks[0]
        assert "is damaged" in record.remarks[0]
    assert not finish_again(checked, cohort, tmp_path)


def finish_again(experiment, cohort, folder):
    """What is damaged when everything is done: nothing."""
    record = Record(COMMON)
    finish(experiment, cohort, folder, record)
    return record.remarks


def test_models_that_no_finished_piece_made_are_removed_and_nothing_else(tmp_path):
    """An interrupted process leaves weights with or without a card; what it did not make stays."""
    record = Record(COMMON)
    kept = Checkpoints(tmp_path, record, owned=MODELS)
    (tmp_path / "pool").mkdir()
    for name in ("north.safetensors", "south.safetensors", "south.json"):
        write_text(tmp_path / "pool" / name, name)
    mine = ("mine.safetensors", "mine.json", "notes.txt", ".east.safetensors.part")
    for name in mine:
        (tmp_path / "pool" / name).write_text("mine")
    with kept.save("training"):
        kept.register(tmp_path / "pool" / "north.safetensors")
    assert Checkpoints(tmp_path, record, owned=MODELS).verify() == []
    left = {path.name for path in (tmp_path / "pool").iterdir()}
    assert left == {"north.safetensors", *mine}
    checkpoints = Checkpoints(tmp_path, record, owned=MODELS)
    checkpoints.verify()
    assert (
        len(ModelPool(tmp_path / "pool", counts=checkpoints.has)) == 0
    )  # mine.json is no card, and no matter


def test_a_part_counts_until_the_whole_is_finished(tmp_path):
    record = Record(COMMON)
    kept = Checkpoints(tmp_path, record, owned=MODELS)

    def measure(method):
        record.result(0, "coast", Measured({"method": method}))

    with pytest.raises(Interrupted), kept.save("evaluation"):  # noqa: PT012
        with kept.save("evaluation", "a.b"):
            measure("a.b")
        measure("half")
        raise Interrupted
    assert [row["method"] for row in record.results] == ["a.b", "half"]

    record = Record(COMMON)
    kept = Checkpoints(tmp_path, record, owned=MODELS)
    assert kept.load_if_done("evaluation") is None
    with kept.save("evaluation") as note:
        assert kept.load_if_done("evaluation", "a.b") == {}
        assert kept.load_if_done("evaluation", "c") is None
        measure("c")
        note["labels"] = ("a.b", "c")
    record = Record(COMMON)
    assert Checkpoints(tmp_path, record, owned=MODELS).load_if_done("evaluation") == {"labels": ["a.b", "c"]}
    assert [row["method"] for row in record.results] == ["a.b", "c"]
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["evaluation.json"]
    assert read_sealed(tmp_path / "journal" / "evaluation.json")["files"] == {}


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = Checkpoints(None, Record(COMMON))
    with kept.save("training"):
        kept.register(tmp_path / "nowhere")
    assert kept.load_if_done("training") is None
    assert kept.verify() == []
    assert not list(tmp_path.iterdir())
