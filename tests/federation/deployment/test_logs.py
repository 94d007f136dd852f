"""Logs: bounded, in order, each line whose it is, and nothing in them that a terminal obeys."""

import io
import subprocess
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime

from facts import refused
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.federation.deployment import logs
from fedmerge.federation.deployment.logs import LINE, Log, Reader, about, files, lines, moment, pump
from fedmerge.federation.deployment.processes import Program

NAMES = {7: "north"}.get


def read(*said, whose="server"):
    reader = Reader(whose, NAMES)
    return [reader.line(line) for line in said]


def test_flower_s_lines_have_level_hospital_and_run():
    assert read(
        "\x1b[92mINFO \x1b[0m:      [Fleet.PushMessages] Push replies from node_id=7",
        "\x1b[93mWARNING \x1b[0m:   Connection attempt failed",
        "2026-11-29T16:38:48.494Z ERROR [uvicorn.error] no",
        "\x1b[92mINFO \x1b[0m:      [RUN 12, ROUND 3]",
        "\x1b[92mINFO \x1b[0m:      Receiving: train message",
        "\x1b[92mINFO \x1b[0m:      ",
    ) == [
        "INFO    north | [Fleet.PushMessages] Push replies from node_id=7",
        "WARNING server | Connection attempt failed",
        "ERROR   server | [uvicorn.error] no",
        None,
        "INFO    server run=12 round=3 | Receiving: train message",
        None,
    ]


def test_what_follows_an_error_has_its_level():
    assert read("\x1b[91mERROR \x1b[0m:     it failed", "Traceback", "  File", "INFO :  well")[1:] == [
        "ERROR   server | Traceback",
        "ERROR   server |   File",
        "INFO    server | well",
    ]


def test_our_lines_about_a_hospital_are_its_own():
    said = "INFO :      [RUN 12, ROUND 3] [old-mill] train: answered after 8.2 s"
    assert read(said) == ["INFO    old-mill run=12 round=3 | train: answered after 8.2 s"]


def test_a_node_that_is_not_known_is_nobody_s():
    assert read("INFO :  [Fleet] node_id=8") == ["INFO    server | [Fleet] node_id=8"]


@given(st.text(max_size=300))
def test_whatever_is_said_stays_on_its_line(said):
    found = Reader("north").line(said)
    assert found is None or (found.isprintable() and LINE.match(f"2026-01-01T00:00:00Z {found}"))


def test_a_hostile_line_neither_moves_the_cursor_nor_forges_another():
    (found,) = read("INFO :  a\x1b[2J\rb\x9b1m\u2028ERROR\u202e")
    assert found == "INFO    server | a\\x0db\\x9b1m\\x2028ERROR\\x202e"


def test_a_log_never_grows_beyond_its_files(tmp_path):
    path = tmp_path / "x.log"
    log = Log(path, size=2000, kept=3)
    for number in range(1000):
        log.write(f"INFO    north | line {number}")
    log.close()
    assert [file.name for file in files(path)] == ["x.log.3", "x.log.2", "x.log.1", "x.log"]
    assert all(file.stat().st_size <= 2000 for file in files(path))
    numbers = [int(line.rsplit(" ", 1)[1]) for line in lines([path])]
    assert numbers == list(range(numbers[0], 1000))  # the last ones, all of them, in order


def test_a_line_without_end_is_cut(tmp_path):
    last = deque(maxlen=5)
    pump(io.BytesIO(b"x" * 1_000_000 + b"\nend"), Log(tmp_path / "x.log"), Reader(), last)
    assert last[-1].endswith("end")
    assert max(map(len, lines([tmp_path / "x.log"]))) < logs.LONGEST + 100


def test_a_full_disk_does_not_stop_the_program(tmp_path):
    log = Log(tmp_path / "x.log")
    log._handler.stream.close()
    log._handler.stream = open("/dev/full", "w")  # noqa: SIM115
    pump(io.BytesIO(b"a\n" * 10_000), log, Reader(), deque(maxlen=5))


def test_logs_are_merged_by_time_and_asked_by_hospital_and_run(tmp_path):
    (tmp_path / "a.log").write_text(
        "2026-03-01T12:00:00Z INFO    north run=17 round=3 | one\n"
        "2026-03-01T12:00:02Z INFO    north run=18 | three\n"
    )
    (tmp_path / "b.log").write_text("2026-03-01T12:00:01Z WARNING south run=17 | two\nold words\n")
    found = lines([tmp_path / "a.log", tmp_path / "b.log"])
    assert [line.rpartition(" ")[2] for line in found] == ["one", "two", "words", "three"]
    assert [line.rpartition(" ")[2] for line in found if about(line, "north")] == ["one", "three"]
    assert [line.rpartition(" ")[2] for line in found if about(line, run=17)] == ["one", "two"]
    assert not [line for line in found if about(line, run=1)]
    since = datetime(2026, 3, 1, 12, 0, 1, tzinfo=UTC)
    assert len(lines([tmp_path / "a.log", tmp_path / "b.log"], since)) == 3
    assert lines([tmp_path / "none.log"]) == []


def test_new_lines_are_followed_into_the_next_file(tmp_path):
    path = tmp_path / "x.log"
    log = Log(path, size=300, kept=9)
    log.write("INFO    - | before")
    found, ended = [], threading.Event()

    def take():
        for line in logs.follow([path], pause=0.01):
            found.append(line.rpartition(" ")[2])
            if found[-1] == "last":
                break
        ended.set()

    threading.Thread(target=take, daemon=True).start()
    time.sleep(0.3)
    for number in range(30):
        log.write(f"INFO    - | {number}")
        time.sleep(0.03)
    log.write("INFO    - | last")
    assert ended.wait(60)
    assert found == [*map(str, range(30)), "last"]
    log.close()


def test_since_when():
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert moment("90s", now) == datetime(2026, 3, 1, 11, 58, 30, tzinfo=UTC)
    assert moment("2d", now) == datetime(2026, 2, 27, 12, tzinfo=UTC)
    assert moment("2026-03-01T12:00+02:00") == datetime(2026, 3, 1, 10, tzinfo=UTC)
    for wrong in ("yesterday", "", "5", "-5m", "2026-99-01", "9" * 400 + "d"):
        with refused("time", "10m", "2h"):
            moment(wrong)


def test_a_program_that_says_more_than_a_pipe_holds_is_not_stopped_by_it(tmp_path):
    code = "for i in range(20000): print('INFO : words words words words', i)"
    with Program([sys.executable, "-c", code], {}, tmp_path / "x.log") as program:
        assert program.process.wait(120) == 0
    assert lines([tmp_path / "x.log"])[-1].endswith("| words words words words 19999")


def test_a_child_that_keeps_the_pipe_does_not_keep_the_end_waiting(tmp_path):
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(5)'])"
    with Program([sys.executable, "-c", code], {}, tmp_path / "x.log") as program:
        assert isinstance(program.process, subprocess.Popen)
        program.process.wait(60)
        assert program.last_words() == ""
