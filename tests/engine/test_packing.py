import numpy as np
import pytest

from fedmerge.engine.executors.packing import pack, unpack


def test_a_folder_comes_back_as_it_was(tmp_path):
    (tmp_path / "one" / "pool").mkdir(parents=True)
    (tmp_path / "one" / "pool" / "a.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / "one" / "done").write_bytes(b"")
    unpack(pack(tmp_path / "one"), tmp_path / "two")
    assert (tmp_path / "two" / "pool" / "a.safetensors").read_bytes() == bytes(range(256))
    assert (tmp_path / "two" / "done").read_bytes() == b""


def test_nothing_is_read_through_a_link(tmp_path):
    (tmp_path / "secret").write_text("")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "link").symlink_to(tmp_path / "secret")
    assert pack(tmp_path / "one") == {}


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_nothing_is_written_outside(tmp_path, name):
    with pytest.raises(ValueError, match="out"):
        unpack({name: np.zeros(1, np.uint8)}, tmp_path / "folder")
    assert not (tmp_path / "out").exists()
