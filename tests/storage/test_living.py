"""A process is known by more than its number."""

import os
import subprocess
import sys
import time

from fedmerge.storage.living import Process, birth, process


def child(code="import time; time.sleep(60)"):
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_process_lives_until_it_is_killed():
    started = child()
    known = process(started.pid)
    assert known.alive
    started.kill()
    started.wait()
    assert not known.alive


def test_one_that_ended_and_was_not_taken_by_its_parent_does_not_live():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    while birth(pid) is not None:
        time.sleep(0.01)
    assert not Process(pid=pid, born="?", host=process().host).alive
    os.waitpid(pid, 0)


def test_another_process_with_its_number_is_another():
    me = process()
    assert me.alive
    assert not me.model_copy(update={"born": f"{me.born}0"}).alive
    assert me.born != process(os.getppid()).born


def test_nothing_is_said_of_other_machines():
    there = process().model_copy(update={"host": "elsewhere"})
    assert not there.here
    assert not there.alive


def test_it_is_the_same_in_whichever_process_asks():
    code = f"from fedmerge.storage.living import birth; print(birth({os.getpid()}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == process().born
