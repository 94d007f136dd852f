"""What a hospital tells of its images: right where it tells, and nobody works out what it hides."""

import json

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedmerge.data import Site, Split
from fedmerge.errors import FedMergeError
from fedmerge.federation import Hospital, LocalGrid, client_app
from fedmerge.federation.hospital.inspection import inspect, read, reply_with
from fedmerge.federation.inspecting import _ask
from fedmerge.federation.messages.jobs import InspectJob as Wish
from fedmerge.federation.messages.reading import TEXTS
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.policy.suppression import told

FIRST = 1001


def site(train, val=(), test=(), names=("a", "b"), values=None):
    """Labels by split; image i of all has the value ``values[i]`` in its left half, and i in the other."""
    labels = [*train, *val, *test]
    images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    for i, value in enumerate(values if values is not None else range(len(labels))):
        images[i, :, :, :2], images[i, :, :, 2:] = value, i
    splits, start = [], 0
    for part in (train, val, test):
        end = start + len(part)
        splits.append(Split(images[start:end], torch.tensor(part, dtype=torch.int64)))
        start = end
    return Site("north", "digits", *splits, tuple(names))


def test_sizes_classes_and_intensities_of_a_hospital_with_enough():
    found = inspect(site([0] * 10 + [1] * 6, [0] * 5, [1] * 7, values=[200] * 28), Wish(minimum=5))
    assert (found.train, found.val, found.test) == (16, 5, 7)
    assert found.classes == {"a": 15, "b": 13}
    assert found.shape == (1, 4, 4)
    # right halves are 0 to 27, left ones 200: bins of 16 levels, of which 28 images give 16, 12 and 28 halves
    assert found.intensities == [round(8 * 16 / 448, 4), round(8 * 12 / 448, 4), *[0] * 10, 0.5, *[0] * 3]
    assert (found.duplicates, found.flat) == (0, 0)


def test_copies_are_counted_and_flat_images_are_none():
    known = site([0] * 30, values=[i // 2 for i in range(30)])
    known.train.images[:] = known.train.images[::2].repeat_interleave(2, dim=0)
    known.train.images[:6] = 9
    found = inspect(known, Wish(minimum=5))
    assert (found.duplicates, found.flat) == (12, 6)


def test_few_are_not_told():
    found = inspect(site([0] * 3 + [1]), Wish(minimum=5))
    assert (found.train, found.val, found.test) == ("hidden", "hidden", "hidden")
    assert found.classes == {"a": "hidden", "b": "hidden"}
    assert found.intensities == []


def test_an_intensity_of_too_few_images_is_not_told_nor_what_gives_it_away():
    """Left halves are 10 (20 images), 100 (8) and 250 (3), right ones 0 to 30; all shares add up to 1."""
    found = inspect(site([0] * 31, values=[10] * 20 + [100] * 8 + [250] * 3), Wish(minimum=5))
    assert [i for i, share in enumerate(found.intensities) if share is None] == [
        6,
        15,
    ]  # the rarest, and its next
    assert found.intensities[0] == round((20 + 16) / 62, 4)
    assert found.intensities[1] == round(15 / 62, 4)
    two = inspect(site([0] * 31, values=[10] * 20 + [100] * 8 + [250] * 2 + [200]), Wish(minimum=5))
    assert [i for i, share in enumerate(two.intensities) if share is None] == [12, 15]
    assert two.intensities[6] == round(8 / 62, 4)


def test_the_hospital_s_own_minimum_counts_where_it_is_greater():
    known = site([0] * 10 + [1] * 8)
    assert inspect(known, Wish(minimum=5), own_minimum=9).classes == {"a": "hidden", "b": "hidden"}
    assert inspect(known, Wish(minimum=9), own_minimum=5).classes == {"a": "hidden", "b": "hidden"}
    assert inspect(known, Wish(minimum=1), own_minimum=1).classes == {"a": 10, "b": 8}


def test_the_server_takes_what_fits_and_refuses_the_rest(cohort):
    LocalGrid(client_app(lambda context: Hospital(cohort.training[0])), 1)  # a run, for Flower's messages
    good = json.loads(inspect(site([0] * 10 + [1] * 6), Wish()).model_dump_json())

    def answer(text):
        question = request_message("query.inspect", FIRST, "g", {}, None)
        return Message(RecordDict({TEXTS: ConfigRecord({"json": text})}), reply_to=question)

    assert read(answer(json.dumps(good))).train == 16
    hostile = [
        {"train": -1}, {"train": 1e300}, {"train": "many"}, {"train": "<script>"}, {"train": None},
        {"classes": {"a" * 300: 1}}, {"classes": {str(i): 1 for i in range(10_001)}}, {"classes": []},
        {"intensities": [2.0]}, {"intensities": [float("nan")]}, {"intensities": [0.1] * 65},
        {"shape": [1, 2]}, {"shape": [1, 2, 3, 4]},
        {"hospital": "n" * 300}, {"duplicates": [1]}, {"minimum": 0}, {"more": 1},
    ]  # fmt: skip
    for wrong in hostile:
        with pytest.raises(FedMergeError):
            read(answer(json.dumps(good | wrong)))
    for text in ("", "[]", "null", "{", "[" * 100_000, "x" * 3_000_000):
        with pytest.raises(FedMergeError):
            read(answer(text))
    checked = good | {"checks": {"near_duplicates": 3, "middle": -40, "sizes": {"64x64": 16, "other": "<5"}}}
    assert read(answer(json.dumps(checked))).checks.middle == -40
    wrong_checks = [
        {"near_duplicates": -1}, {"near_duplicates": "some"}, {"negatives": 1e300}, {"negatives": [1]},
        {"middle": 256}, {"middle": 1.5}, {"middle": "<b>"}, {"middle": float("nan")},
        {"brightness": {"a": 1.01}}, {"brightness": {"a": float("nan")}}, {"brightness": {"c": 0.5}},
        {"brightness": [0.5]}, {"brightness": {"a": "\u001b[2J"}},
        {"sizes": {"64": 1}}, {"sizes": {"0x5": 1}}, {"sizes": {"64x64": "5"}}, {"sizes": {"<i>": 9}},
        {"sizes": {f"{i}x{i}": 1 for i in range(1, 99)}},
        {"left_out": {"\u001b[2J": 9}}, {"left_out": {".x" * 40: 9}}, {"left_out": {".Smith": 9}},
        {"left_out": {f".{i}": 9 for i in range(99)}}, {"more": 1},
    ]  # fmt: skip
    for wrong in wrong_checks:
        with pytest.raises(FedMergeError):
            read(answer(json.dumps(good | {"checks": wrong})))
    for wrong in ([], "all", 1, {"sizes": {"1x1": {"1x1": {}}}}):
        with pytest.raises(FedMergeError):
            read(answer(json.dumps(good | {"checks": wrong})))
    with pytest.raises(FedMergeError):
        read(Message(RecordDict(), reply_to=request_message("query.inspect", FIRST, "g", {}, None)))


def test_every_hospital_is_asked_and_one_that_is_another_is_not_heard(cohort):
    hospitals = [Hospital(each) for each in cohort.training]
    grid = LocalGrid(client_app(lambda context: hospitals[int(context.node_config["partition-id"])]), 3)
    first, second, third = grid.get_node_ids()
    names = {
        first: hospitals[0].site.name,
        second: "somebody else",
        third: hospitals[2].site.name,
        77: "away",
    }
    found = {each["hospital"]: each for each in _ask(grid, names, Wish(), 0.0)}
    assert found["away"]["reason"] == "its node did not come"
    assert f"calls itself '{hospitals[1].site.name}'" in found["somebody else"]["reason"]
    mine = hospitals[0].site
    assert found[mine.name]["train"] == told([len(mine.train), len(mine.val), len(mine.test)], 5)[0]
    assert set(found) == set(names.values())


class Silent:
    """A grid whose nodes never answer; it keeps what they are asked."""

    def get_node_ids(self):
        return [FIRST]

    def send_and_receive(self, messages, timeout):
        self.asked = [dict(message.content["config"]) for message in messages]
        return []


def test_hospitals_and_servers_without_checks_hear_nothing_of_them(cohort):
    """A job, and a reply, have the new field only where it is asked for."""
    LocalGrid(client_app(lambda context: Hospital(cohort.training[0])), 1)
    grid = Silent()
    for checks in (False, True):
        _ask(grid, {FIRST: "north"}, Wish(checks=checks), 0.0)
        (job,) = grid.asked
        assert ("checks" in json.dumps(job)) is checks
        question = request_message("query.inspect", FIRST, "g", {"checks": True} if checks else {}, None)
        reply = reply_with(question, cohort.training[0])
        assert ("checks" in json.loads(reply.content[TEXTS]["json"])) is checks
        assert (read(reply).checks is not None) is checks


@pytest.mark.parametrize("wish", [{"minimum": 0}, {"bins": 8}, {"more": 1}])
def test_a_wish_that_is_none_is_refused_by_the_hospital(cohort, wish):
    app = client_app(lambda context: Hospital(cohort.training[0]))
    grid = LocalGrid(app, 1)
    (reply_message,) = grid.send_and_receive(
        [request_message("query.inspect", grid.get_node_ids()[0], "g", wish, None)]
    )
    assert reply_message.has_error()
    assert "the job cannot be taken" in reply_message.error.reason
