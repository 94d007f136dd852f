"""What is started must end, with all it started, whatever it thinks of being asked."""

import os
import sys
import time

import psutil
from facts import refused

from fedmerge.federation.deployment.processes import Program, Programs, environment

SAYS = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SAYS}"
PARENT = f"import subprocess as s, sys, time; s.Popen([sys.executable, '-c', {STUBBORN!r}]); time.sleep(60)"


def python(code, tmp_path):
    return Program([sys.executable, "-c", code], os.environ, tmp_path / "log")


def up(program):
    return "up" in program.log.read_text()


def test_a_program_ends_with_children_that_do_not_want_to(tmp_path):
    program = python(PARENT, tmp_path)
    program.wait_until(lambda: up(program), 30, "start its child")
    (child,) = psutil.Process(program.process.pid).children()
    program.stop()
    assert not program.running
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    program.stop()  # once more does no harm


def test_a_program_ends_that_does_not_want_to_itself(tmp_path):
    program = python(STUBBORN, tmp_path)
    program.wait_until(lambda: up(program), 30, "start")
    program.stop(patience=0.2)
    assert not program.running


def test_one_that_ends_or_is_not_ready_in_time_is_an_error_with_its_last_words(tmp_path):
    ended = python("import sys; sys.exit('no licence')", tmp_path)
    with refused("ended", "answer", "licence"):
        ended.wait_until(lambda: False, 30, "answer")
    with python(SAYS, tmp_path) as program:
        program.wait_until(lambda: up(program), 30, "start")
        with refused("python", "did not answer", "up"):
            program.wait_until(lambda: False, 0.2, "answer")


def test_the_last_words_of_a_traceback_are_its_error_though_more_was_said_after_it(tmp_path):
    code = (
        "import traceback\n"
        "try: raise OSError('401: not admitted')\n"
        "except OSError: traceback.print_exc()\n"
        "for n in range(3): print('INFO: shutting down', n)"
    )
    program = python(code, tmp_path)
    program.process.wait()
    assert program.last_words().startswith("OSError: 401: not admitted / INFO: shutting down 0")


def test_programs_end_together_also_after_an_error(tmp_path):
    started = []

    def fail():
        with Programs() as programs:
            for name in "ab":
                started.append(programs.start([sys.executable, "-c", SAYS], os.environ, tmp_path / name))
            raise ValueError("enough")

    with refused("enough", kind=ValueError):
        fail()
    assert [program.running for program in started] == [False, False]


def test_there_is_a_sentence_for_a_program_that_is_not_installed(tmp_path):
    with refused("flower-nonesuch", "started"):
        Program(["flower-nonesuch"], os.environ, tmp_path / "log")


def test_flower_s_programs_call_nobody_and_have_a_folder_of_their_own(tmp_path):
    env = environment(tmp_path / "flwr", EXTRA="1")
    assert env["FLWR_HOME"] == str(tmp_path / "flwr")
    assert env["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)
    assert (env["FLWR_TELEMETRY_ENABLED"], env["RAY_USAGE_STATS_ENABLED"], env["EXTRA"]) == ("0", "0", "1")


def test_stopping_waits_no_longer_than_it_must(tmp_path):
    program = python(SAYS, tmp_path)
    program.wait_until(lambda: up(program), 30, "start")
    began = time.monotonic()
    program.stop()
    assert time.monotonic() - began < 60  # as long as it would sleep


def test_a_supernode_that_gave_its_server_up_ends_though_threads_of_its_own_live_on(tmp_path):
    code = (
        "import threading, time\n"
        "from fedmerge.federation.deployment import supernode\n"
        "supernode.flower_supernode = lambda: threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "supernode.main()"
    )
    program = python(code, tmp_path)
    assert program.process.wait(300) == 1
    assert "must be started again" in program.last_words()
