"""Files that say they are huge are refused by their headers: a sentence, little memory, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fedmerge.data.sources import npz_sizes
from fedmerge.experiment.folder.reopen import read_table
from fedmerge.storage import outside
from fedmerge.storage.outside import check_memory, check_tensor_file, read_bounded
from tests.facts import refused

SAYS = {  # facts that each sentence holds
    "png of 50,000 px": ["a.png", "100,000,000 pixels", "2500000000"],
    "png of 2^31 px": ["b.png", "100,000,000 pixels"],
    "png just above": ["c.png", "10,001 x 10,000"],
    "png with packed text": ["d.png"],
    "bmp": ["e.bmp", "pixels"],
    "gif": ["f.gif", "pixels"],
    "pnm": ["g.pgm", "pixels"],
    "npz header of 10 GB": ["a.npz", "train_images", "100,000 x 100,000", "10,000,000,000 bytes"],
    "npz header of 2^80": ["b.npz", "1,099,511,627,776 x"],
    "npz bomb": ["c.npz", "314,572,800 bytes"],
    "npz that lies twice": ["d.npz", "3,000,000,000 bytes"],
    "npz packed otherwise": ["e.npz", "packed"],
    "npz header too long": ["f.npz"],
    "tensors' header of 10 GB": ["a.safetensors", "10,000,000,000"],
    "tensors' header of 10 GB, sparse": ["b.safetensors", "10,000,000,000"],
    "tensor beyond the file": ["c.safetensors"],
    "tensor that overflows": ["d.safetensors"],
    "laughs": ["a.yaml", "aliases"],
    "yaml of 10 GB": ["b.yaml", "larger"],
    "yaml nested": ["c.yaml", "nesting"],
    "card of 10 GB": ["a.json", "bytes"],
    "card nested": ["b.json"],
    "mapping of 10 GB": ["c.json", "bytes"],
    "mapping nested": ["d.json", "nested"],
    "table nested": ["e.json", "nested"],
    "parquet of none": ["a.parquet"],
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each reader said, in a process that cannot allocate more than 512 MiB on top."""
    script = Path(__file__).with_name("hostile_files.py")
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("hostile"))],
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", SAYS)
def test_a_file_that_asks_for_too_much_is_refused_with_a_sentence(said, case):
    kind, sentence = said[case]
    assert kind == "refused", sentence
    for fact in SAYS[case]:
        assert fact in sentence
    assert len(sentence) < 400
    assert set(said) == set(SAYS)


def test_a_table_of_very_many_cells_is_refused_by_its_footer(tmp_path, monkeypatch):
    path = tmp_path / "results.parquet"
    pd.DataFrame({"a": range(100), "b": range(100)}).to_parquet(path)
    assert len(read_table(path)) == 100
    monkeypatch.setattr(outside, "MOST_CELLS", 199)
    monkeypatch.setattr(pd, "read_parquet", lambda path: pytest.fail("it was read"))
    with refused("100 rows", "2 columns"):
        read_table(path)


def test_what_memory_cannot_hold_is_refused(monkeypatch):
    check_memory(1000, "it")
    with refused("1,000,000,000.0", "GB", "needs"):
        check_memory(10**18, "it")
    assert npz_sizes.PACKED == 1032  # deflate: 258 bytes for two bits


def test_a_file_of_just_the_allowed_length_is_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5, "it") == b"12345"
    with refused("4 bytes", "none"):
        read_bounded(path, 4, "it")


def test_a_header_that_ends_where_the_file_does_is_whole(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    check_tensor_file(path)
    path.write_bytes((3).to_bytes(8, "little") + b"{}")
    with refused("3 bytes", "copy"):
        check_tensor_file(path)
