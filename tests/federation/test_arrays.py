"""A lent array must be Flower's own to whoever asks, and no copy to whoever does not."""

import pickle
import warnings

import numpy as np
import torch
from facts import refused
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import array_record_from_proto, array_record_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedmerge.federation.arrays import LentArray, borrow, content_bytes, count_bytes, lend

STATE = {
    "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "turned": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    "half": torch.ones(4, dtype=torch.float16),
    "steps": torch.tensor(7),
    "none": torch.empty(0, 3),
}


def same(a, b):
    assert list(a) == list(b)
    for key in a:
        assert a[key].dtype == b[key].dtype
        assert torch.equal(a[key], b[key])


def test_bytes_are_those_of_flower_s_own_array():
    lent, own = lend(STATE), ArrayRecord(STATE)
    for key in STATE:
        assert isinstance(lent[key], Array)
        contiguous = np.array(own[key].numpy(), order="C")  # Flower keeps Fortran order, we do not
        assert lent[key].data == Array(contiguous).data
        assert lent[key] == LentArray(contiguous)
    assert count_bytes(lent) == lent.count_bytes() == ArrayRecord(dict(lent)).count_bytes()
    assert count_bytes(own) == own.count_bytes()


def test_numbers_survive_every_way_they_travel():
    same(borrow(lend(STATE)), STATE)
    same(borrow(array_record_from_proto(array_record_to_proto(lend(STATE)))), STATE)
    same(borrow(pickle.loads(pickle.dumps(lend(STATE)))), STATE)
    same(dict(lend(STATE).to_torch_state_dict()), STATE)


def test_a_superlink_stores_them_as_flower_s_own():
    """A deployment takes a record apart into objects, known by their hashes, and puts it together again."""
    lent = lend(STATE)
    objects = {number: part.deflate() for number, part in get_all_nested_objects(lent).items()}
    own = ArrayRecord({key: Array(array.numpy()) for key, array in lent.items()})
    assert objects == {number: part.deflate() for number, part in get_all_nested_objects(own).items()}
    same(borrow(inflate_object_from_contents(lent.object_id, dict(objects))), STATE)


def test_nothing_is_copied_inside_a_process():
    weight = torch.zeros(3)
    back = borrow(lend({"weight": weight}))["weight"]
    weight[1] = 5
    assert back.tolist() == [0, 5, 0]


def test_the_numbers_are_pickled_out_of_band():
    """A million zeros are 4 MB in the buffers, and next to nothing in the pickle."""
    buffers = []
    text = pickle.dumps(lend({"w": torch.zeros(1_000_000)}), protocol=5, buffer_callback=buffers.append)
    assert sum(buffer.raw().nbytes for buffer in buffers) == 4_000_000
    assert len(text) < 2_000
    back = pickle.loads(text, buffers=buffers)
    assert borrow(back)["w"].numel() == 1_000_000


def test_a_record_can_be_emptied_as_it_is_read_and_read_only_memory_is_no_matter():
    array = np.zeros(3, dtype=np.float32)
    array.flags.writeable = False
    record = ArrayRecord()
    record["w"] = LentArray(array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert borrow(record, keep=False)["w"].tolist() == [0, 0, 0]
    assert not record


def test_an_array_that_was_given_other_bytes_reads_those():
    array = LentArray(np.zeros(2))
    array.data = Array(np.ones(2)).data
    assert array.numpy().tolist() == [1, 1]
    with refused("nonsense", kind=AttributeError):
        _ = array.nonsense


def test_a_message_is_as_large_as_all_that_it_holds_and_an_empty_text_is_no_error():
    content = RecordDict({
        "numbers": MetricRecord({"loss": 0.5, "steps": [1, 2]}),  # 4 + 8, 5 + 16
        "texts": ConfigRecord({"a": "", "b": [], "c": "é", "d": b"123", "e": True}),  # 5 names, 2 + 3 + 1
    })  # fmt: skip
    assert content_bytes(content) == 33 + 11
    content["arrays"] = lend(STATE)
    assert content_bytes(content) == 33 + 11 + count_bytes(content.array_records["arrays"])
